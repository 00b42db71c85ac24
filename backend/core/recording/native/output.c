/*
 * Output of programs, one read at a time: encoded as lines of JSON, filtered for terminals, searched for secrets.
 *
 * Each function is the twin of one in Python, which is used where this module cannot be loaded, and gives the same bytes.
 * None of them keeps anything between two calls but one buffer, which the interpreter's lock protects.
 */

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef const uint8_t *Bytes;

/* ---- the buffer that results are built in ---- */

static uint8_t *buffer;
static size_t room;

static int reserve(size_t size)
{
    if (size <= room)
        return 1;
    uint8_t *larger = PyMem_Realloc(buffer, size);
    if (!larger) {
        PyErr_NoMemory();
        return 0;
    }
    buffer = larger;
    room = size;
    return 1;
}

static uint8_t *copied(uint8_t *out, const void *from, size_t size)
{
    memcpy(out, from, size);
    return out + size;
}

static PyObject *built(const uint8_t *end)
{
    return PyBytes_FromStringAndSize((const char *)buffer, end - buffer);
}

static int bytes_of(PyObject *object, Bytes *data, Py_ssize_t *size)
{
    char *text;
    if (PyBytes_AsStringAndSize(object, &text, size) < 0)
        return 0;
    *data = (Bytes)text;
    return 1;
}

/* ---- sixteen bytes at a time ---- */

#define WIDTH 16

/* Signed, as the comparisons of both processors are: what is not ASCII is less than 0. */
typedef int8_t Vector __attribute__((vector_size(WIDTH)));

#if defined(__SSE2__)
#define BITS 1                  /* of a mask, for each byte */
typedef char Chars __attribute__((vector_size(WIDTH)));

static uint64_t bits(Vector found)
{
    return (uint32_t)__builtin_ia32_pmovmskb128((Chars)found);
}

static uint64_t beyond_ascii(Vector text)
{
    return bits(text);          /* the highest of each byte, whatever the others are */
}
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#define BITS 4

static uint64_t bits(Vector found)
{
    return vget_lane_u64(vreinterpret_u64_u8(vshrn_n_u16(vreinterpretq_u16_s8((int8x16_t)found), 4)), 0);
}

static uint64_t beyond_ascii(Vector text)
{
    return bits(text < 0);
}
#endif

#define ALL (~UINT64_C(0) >> (64 - WIDTH * BITS))

static Vector load(Bytes at)
{
    Vector text;
    memcpy(&text, at, WIDTH);
    return text;
}

/* How many bytes are before the first that is in a mask; all where none is. */
static int before(uint64_t found)
{
    return found ? __builtin_ctzll(found) / BITS : WIDTH;
}

/* ---- UTF-8 ---- */

#define INCOMPLETE 0

/* The bytes of the character at `at`; INCOMPLETE where the data ends within it; where it is none, minus the bytes of it
   that a decoder replaces by one U+FFFD. */
static int character(Bytes at, Bytes end, uint32_t *code)
{
    uint8_t first = at[0], low = 0x80, high = 0xBF;
    int more;
    uint32_t value;

    if (first < 0x80) {
        *code = first;
        return 1;
    }
    if (first < 0xC2 || first > 0xF4)
        return -1;
    if (first < 0xE0) {
        more = 1;
        value = first & 0x1F;
    } else if (first < 0xF0) {
        more = 2;
        value = first & 0x0F;
        low = first == 0xE0 ? 0xA0 : 0x80;
        high = first == 0xED ? 0x9F : 0xBF;
    } else {
        more = 3;
        value = first & 0x07;
        low = first == 0xF0 ? 0x90 : 0x80;
        high = first == 0xF4 ? 0x8F : 0xBF;
    }
    for (int number = 1; number <= more; number++) {
        if (at + number == end)
            return INCOMPLETE;
        if (at[number] < low || at[number] > high)
            return -number;
        value = value << 6 | (at[number] & 0x3F);
        low = 0x80;
        high = 0xBF;
    }
    *code = value;
    return more + 1;
}

static uint8_t *put(uint8_t *out, uint32_t code)
{
    if (code < 0x80) {
        *out++ = code;
    } else if (code < 0x800) {
        *out++ = 0xC0 | code >> 6;
        *out++ = 0x80 | (code & 0x3F);
    } else if (code < 0x10000) {
        *out++ = 0xE0 | code >> 12;
        *out++ = 0x80 | (code >> 6 & 0x3F);
        *out++ = 0x80 | (code & 0x3F);
    } else {
        *out++ = 0xF0 | code >> 18;
        *out++ = 0x80 | (code >> 12 & 0x3F);
        *out++ = 0x80 | (code >> 6 & 0x3F);
        *out++ = 0x80 | (code & 0x3F);
    }
    return out;
}

static int is_more(uint8_t byte)
{
    return (byte & 0xC0) == 0x80;
}

/* The bytes that are neither ASCII nor in their place within a character of the usual forms. `due` are the places at which the
   characters before require another byte, and then those behind. */
static inline __attribute__((always_inline)) uint64_t irregular(Vector text, uint64_t *due)
{
    uint64_t more = bits(text < -64), first = beyond_ascii(text) & ~more, of_three = first & bits(text > -33);
    uint64_t expected = ((first << BITS | of_three << 2 * BITS) & ALL) | *due;
    /* C0 and C1, E0 and ED, F0 to FF */
    Vector other = ((text & -2) == -64) | (text == -32) | (text == -19) | ((text > -17) & (text < 0));
    *due = first >> (WIDTH - 1) * BITS | of_three >> (WIDTH - 2) * BITS;
    return (more ^ expected) | bits(other);
}

/* Where the character begins that is cut at `at`; `at` itself if none is. All from `begin` on are whole and of the usual forms. */
static Bytes whole(Bytes begin, Bytes at)
{
    if (at > begin && at[-1] >= 0xC0)
        return at - 1;
    return at - begin > 1 && at[-2] >= 0xE0 ? at - 2 : at;
}

/* ---- lines as JSON ---- */

#define LARGEST_ESCAPE 6

static uint8_t plain[256];      /* whether a byte stands for itself within a string of JSON */
static const uint8_t letters[128] = {
    ['"'] = '"', ['\\'] = '\\', ['\b'] = 'b', ['\f'] = 'f', ['\n'] = 'n', ['\r'] = 'r', ['\t'] = 't',
};

static uint8_t *escaped(uint8_t *out, uint8_t byte)
{
    static const char hex[] = "0123456789abcdef";

    *out++ = '\\';
    if (letters[byte]) {
        *out++ = letters[byte];
        return out;
    }
    memcpy(out, "u00", 3);
    out += 3;
    *out++ = hex[byte >> 4];
    *out++ = hex[byte & 15];
    return out;
}

/* The bytes that do not stand for themselves within a string of JSON, and those beyond ASCII. */
static Vector no_plain_json(Vector text)
{
    return (text < ' ') | (text == '"') | (text == '\\');
}

/* Copies characters of the usual forms; returns their bytes, 0 where the first is not of them. Writes up to WIDTH bytes more. */
static size_t copy_usual(uint8_t *out, Bytes begin, Bytes end)
{
    Bytes at = begin;
    uint64_t due = 0, found = 0;
    for (int length; !found && end - at >= WIDTH; at += length, out += length) {
        Vector text = load(at);
        memcpy(out, &text, WIDTH);
        found = irregular(text, &due) | (bits(no_plain_json(text)) & ~beyond_ascii(text));
        length = before(found);
    }
    return whole(begin, at) - begin;
}

/* What is neither plain nor a line end; `at` is moved behind it. */
static uint8_t *unusual(uint8_t *out, Bytes *at, Bytes end)
{
    uint32_t code;
    if (**at < 0x80)
        return escaped(out, *(*at)++);
    int size = character(*at, end, &code);
    if (size > 0) {
        memcpy(out, *at, size);
        *at += size;
        return out + size;
    }
    *at = size == INCOMPLETE ? end : *at - size;
    return put(out, 0xFFFD);
}

static PyObject *encode_lines(PyObject *module, PyObject *argument)
{
    Bytes at, end;
    Py_ssize_t size, count = 0;
    (void)module;
    if (!bytes_of(argument, &at, &size) || !reserve((size_t)size * LARGEST_ESCAPE + 4))
        return NULL;
    end = at + size;
    uint8_t *out = buffer;
    *out++ = '"';
    while (at < end) {
        if (end - at >= WIDTH) {
            Vector text = load(at);
            uint64_t found = bits(no_plain_json(text));
            memcpy(out, &text, WIDTH);
            out += before(found);
            at += before(found);
            if (!found)
                continue;
        }
        if (plain[*at]) {
            *out++ = *at++;
        } else if (*at == '\n') {
            count++;
            if (++at == end)
                break;
            out = copied(out, "\",\"", 3);
        } else {
            size_t length = *at < 0x80 ? 0 : copy_usual(out, at, end);
            at += length;
            out = length ? out + length : unusual(out, &at, end);
        }
    }
    *out++ = '"';
    return Py_BuildValue("(Nn)", built(out), count);
}

/* ---- the texts of encoded lines ---- */

static int append_bytes(PyObject *list, Bytes from, Bytes to)
{
    PyObject *text = PyBytes_FromStringAndSize((const char *)from, to - from);
    int failed = !text || PyList_Append(list, text) < 0;
    Py_XDECREF(text);
    return !failed;
}

/* Where the escape at `at` ends; NULL if it is none. */
static Bytes behind_escape(Bytes at, Bytes end)
{
    static const char hex[] = "0123456789abcdefABCDEF";
    if (end - at < 2)
        return NULL;
    if (at[1] != 'u')
        return at[1] && strchr("\"\\/bfnrt", at[1]) ? at + 2 : NULL;
    if (end - at < 6)
        return NULL;
    for (int number = 2; number < 6; number++)
        if (!at[number] || !strchr(hex, at[number]))
            return NULL;
    return at + 6;
}

/* Where the string of JSON whose inside begins at `at` has its quote; NULL if it is none. */
static Bytes closing_quote(Bytes at, Bytes end)
{
    uint32_t code;
    while (at < end && *at != '"') {
        int length = 1;
        if (*at == '\\') {
            if (!(at = behind_escape(at, end)))
                return NULL;
            continue;
        }
        if (*at < 0x20 || (*at >= 0x80 && (length = character(at, end, &code)) <= 0))
            return NULL;
        at += length;
    }
    return at < end ? at : NULL;
}

/* Adds the insides of the strings to the list. False for what is no such array, and for want of memory. */
static int append_texts(PyObject *list, Bytes at, Bytes end)
{
    while (at < end && *at++ == '"') {
        Bytes quote = closing_quote(at, end);
        if (!quote || !append_bytes(list, at, quote))
            return 0;
        at = quote + 1;
        if (at == end)
            return 1;
        if (*at++ != ',')
            return 0;
    }
    return 0;
}

static PyObject *split_items(PyObject *module, PyObject *argument)
{
    Bytes data;
    Py_ssize_t size;
    (void)module;
    if (!bytes_of(argument, &data, &size))
        return NULL;
    PyObject *list = PyList_New(0);
    if (list && size && !append_texts(list, data, data + size)) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_ValueError, "not an array of strings");
        Py_CLEAR(list);
    }
    return list;
}

/* ---- encoded lines that were overwritten, as a terminal shows them ---- */

#define ENCODED_ESC "\\u001b["

static int begins(Bytes at, Bytes end, const char *text, ptrdiff_t size)
{
    return end - at >= size && !memcmp(at, text, size);
}

static Bytes behind_digits(Bytes at, Bytes end, int most)
{
    while (most-- && at < end && *at >= '0' && *at <= '9')
        at++;
    return at;
}

/* The next backslash with the letter of CR or ESC behind it; `end` if there is none. */
static Bytes likely_escape(Bytes at, Bytes end)
{
    for (uint64_t found = 0; end - at > WIDTH && !found; at += before(found)) {
        Vector next = load(at + 1);
        found = bits((load(at) == '\\') & ((next == 'r') | (next == 'u')));
    }
    while (end - at > 1 && !(at[0] == '\\' && (at[1] == 'r' || at[1] == 'u')))
        at++;
    return end - at > 1 ? at : end;
}

/* Whether CR, or a sequence that erases or moves to a column, seems to be in encoded text. A backslash that is one of two is
   not told from others. */
static int seems_overwritten(Bytes at, Bytes end)
{
    for (; (at = likely_escape(at, end)) < end; at++) {
        if (begins(at, end, "\\r", 2))
            return 1;
        Bytes after = begins(at, end, ENCODED_ESC, 7) ? behind_digits(at + 7, end, 4) : end;
        if (after < end && (*after == 'G' || *after == 'K'))
            return 1;
    }
    return 0;
}

/* The byte that the escape at `at` stands for, and behind it; NULL if it is not one as `encode_lines` writes it. */
static Bytes behind_written_escape(Bytes at, Bytes end, uint32_t *code)
{
    static const char letter[] = "\"\\bfnrt", meant[] = "\"\\\b\f\n\r\t", hex[] = "0123456789abcdef";
    const char *found;
    if (end - at < 2 || !at[1])
        return NULL;
    if ((found = strchr(letter, at[1]))) {
        *code = meant[found - letter];
        return at + 2;
    }
    if (!begins(at, end, "\\u00", 4) || end - at < 6 || (at[4] != '0' && at[4] != '1') || !at[5] || !(found = strchr(hex, at[5])))
        return NULL;
    *code = (at[4] - '0') * 16 + (found - hex);
    return *code && strchr(meant, *code) ? NULL : at + 6;
}

/* The character at `at` of encoded text, and behind it; NULL if it is not as `encode_lines` writes it. */
static Bytes behind_written(Bytes at, Bytes end, uint32_t *code)
{
    if (*at == '\\')
        return behind_written_escape(at, end, code);
    int length = *at < 0x20 ? 0 : character(at, end, code);
    return length > 0 ? at + length : NULL;
}

/* Behind what makes a terminal go on at the beginning of the line; NULL if it is not at `at`. */
static Bytes behind_return(Bytes at, Bytes end)
{
    if (begins(at, end, "\\r", 2))
        return at + 2;
    if (!begins(at, end, ENCODED_ESC, 7))
        return NULL;
    at += 7;
    at += at < end && (*at == '0' || *at == '1');
    return at < end && *at == 'G' ? at + 1 : NULL;
}

/* Behind what erases, or goes on at a column; NULL if it is not at `at`. */
static Bytes behind_erasure(Bytes at, Bytes end)
{
    if (!begins(at, end, ENCODED_ESC, 7))
        return NULL;
    at += 7;
    Bytes after = at + (at < end && *at >= '0' && *at <= '2');
    if (after < end && *after == 'K')
        return after + 1;
    after = behind_digits(at, end, 4);
    return after > at && after < end && *after == 'G' ? after + 1 : NULL;
}

/* What Python strips. */
static int is_space(uint32_t code)
{
    return (code >= 9 && code <= 13) || (code >= 28 && code <= 32) || code == 0x85 || code == 0xA0 || code == 0x1680
        || (code >= 0x2000 && code <= 0x200A) || code == 0x2028 || code == 0x2029 || code == 0x202F || code == 0x205F
        || code == 0x3000;
}

/* The last version of a line in which there is something to read; none may be empty. False where it is not encoded as
   `encode_lines` does it. */
static int last_version(Bytes at, Bytes end, Bytes *from, Bytes *to)
{
    Bytes begin = at, after;
    int blank = 1;
    uint32_t code;
    *from = *to = at;
    for (;;) {
        after = at < end ? behind_return(at, end) : at;
        if (after && !blank) {
            *from = begin;
            *to = at;
        }
        if (at == end)
            return 1;
        if (after) {
            begin = at = after;
            blank = 1;
        } else if ((after = behind_erasure(at, end))) {
            at = after;
        } else if ((after = behind_written(at, end, &code))) {
            blank = blank && is_space(code);
            at = after;
        } else {
            return 0;
        }
    }
}

/* Copies encoded text without what erases in it. */
static uint8_t *copy_unerased(uint8_t *out, Bytes at, Bytes end)
{
    Bytes found = at, after;
    while ((found = memchr(found, '\\', end - found))) {
        if ((after = behind_erasure(found, end))) {
            out = copied(out, at, found - at);
            at = found = after;
        } else {
            found += found[1] == 'u' ? 6 : 2;
        }
    }
    return copied(out, at, end - at);
}

/* A line as it is shown; NULL where it was overwritten and is not encoded as `encode_lines` does it. */
static uint8_t *put_shown(uint8_t *out, Bytes at, Bytes end)
{
    if (!seems_overwritten(at, end - at >= 2 && end[-2] == '\\' && end[-1] == 'r' ? end - 2 : end))
        return copied(out, at, end - at);
    return last_version(at, end, &at, &end) ? copy_unerased(out, at, end) : NULL;
}

/* The same array of strings, of each line what remains to be read. */
static PyObject *shown_lines(PyObject *module, PyObject *argument)
{
    Bytes at, end, quote = NULL;
    Py_ssize_t size;
    (void)module;
    if (!bytes_of(argument, &at, &size) || !reserve((size_t)size + 1))
        return NULL;
    end = at + size;
    uint8_t *out = buffer;
    while (out && at < end && *at == '"' && (quote = closing_quote(at + 1, end))) {
        *out++ = '"';
        if (!(out = put_shown(out, at + 1, quote)))
            break;
        *out++ = '"';
        if (quote + 1 == end)
            return built(out);
        if (quote[1] != ',')
            break;
        *out++ = ',';
        at = quote + 2;
    }
    PyErr_SetString(PyExc_ValueError, "not an array of strings as they are encoded here");
    return NULL;
}

static PyObject *is_overwritten(PyObject *module, PyObject *argument)
{
    Bytes data;
    Py_ssize_t size;
    (void)module;
    return bytes_of(argument, &data, &size) ? PyBool_FromLong(seems_overwritten(data, data + size)) : NULL;
}

/* ---- encoded lines as frames of a WebSocket ---- */

#define TEXT_FRAME 0x81         /* FIN and opcode 1 */
#define LONGEST_HEAD 10
#define DIGITS 20               /* of a number of 64 bits */

static const char before_number[] = "\",\"seq\":";

/* A number in decimal, in the last bytes of `digits`. */
struct decimal {
    uint8_t digits[DIGITS + 1];
    int first;
};

static void set_decimal(struct decimal *number, uint64_t value)
{
    number->first = sizeof number->digits;
    do
        number->digits[--number->first] = '0' + value % 10;
    while (value /= 10);
}

static void add_one(struct decimal *number)
{
    int at = sizeof number->digits - 1;
    while (at >= number->first && number->digits[at] == '9')
        number->digits[at--] = '0';
    if (at >= number->first)
        number->digits[at]++;
    else if (at >= 0)
        number->digits[number->first = at] = '1';
}

static uint8_t *frame_head(uint8_t *out, uint64_t length)
{
    int bytes = length < 126 ? 0 : length < 0x10000 ? 2 : 8;
    *out++ = TEXT_FRAME;
    *out++ = bytes == 0 ? length : bytes == 2 ? 126 : 127;
    while (bytes--)
        *out++ = length >> 8 * bytes;
    return out;
}

/* Where the string whose inside begins at `at` has its quote; NULL if it has none. What the escapes are is not looked at. */
static Bytes next_quote(Bytes at, Bytes end)
{
    for (;;) {
        for (uint64_t found = 0; end - at >= WIDTH && !found; at += before(found))
            found = bits((load(at) == '"') | (load(at) == '\\'));
        while (at < end && *at != '"' && *at != '\\')
            at++;
        if (at < end && *at == '"')
            return at;
        if (end - at < 2)
            return NULL;
        at += 2;
    }
}

/* A frame for each of the strings of an array from `at` on, which is the place of the first quote, until at least `limit`
   bytes are made: what each message begins with, a string, and its number. Returns them, the place of the next quote or behind
   the end of the array, and the next number. */
static PyObject *line_frames(PyObject *module, PyObject *arguments)
{
    PyObject *stored, *beginning;
    Bytes begin, end, head, at;
    Py_ssize_t size, head_size, from, limit;
    unsigned long long seq;
    struct decimal number;
    size_t used = 0;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "SnKSn", &stored, &from, &seq, &beginning, &limit) || !bytes_of(stored, &begin, &size)
        || !bytes_of(beginning, &head, &head_size))
        return NULL;
    at = begin + (from < 0 || from > size ? size : from);
    end = begin + size;
    set_decimal(&number, seq);
    while (used < (size_t)limit) {
        Bytes quote = at < end && *at == '"' ? next_quote(at + 1, end) : NULL;
        if (!quote || end - quote < 2) {
            PyErr_SetString(PyExc_ValueError, "not an array of strings");
            return NULL;
        }
        size_t text = quote - at - 1, digits = sizeof number.digits - number.first;
        size_t length = head_size + text + sizeof before_number - 1 + digits + 1;
        if (room - used < LONGEST_HEAD + length && !reserve(2 * (used + LONGEST_HEAD + length)))
            return NULL;
        uint8_t *out = copied(frame_head(buffer + used, length), head, head_size);
        out = copied(copied(out, at + 1, text), before_number, sizeof before_number - 1);
        out = copied(out, number.digits + number.first, digits);
        *out++ = '}';
        used = out - buffer;
        seq++;
        add_one(&number);
        at = quote + 2;
        if (quote[1] != ',')
            break;
    }
    return Py_BuildValue("(NnK)", built(buffer + used), (Py_ssize_t)(at - begin), seq);
}

/* ---- the terminal filter ---- */

#define ESC 0x1B
#define C1 0xC2                 /* the first byte of U+0080 to U+009F; the second is the lower half of the number */
#define STRING_LIMIT 4096       /* characters of an unterminated control string that are removed before output resumes */
#define SEQUENCE_LIMIT 256      /* parameters of one sequence */
#define LONGEST (STRING_LIMIT + 3)
#define LONGEST_CHARACTER 4

static int between(uint32_t code, uint32_t first, uint32_t last)
{
    return code - first <= last - first;
}

static int starts_string(uint32_t code)
{
    return code == 0x90 || code == 0x98 || between(code, 0x9D, 0x9F);
}

static int is_control(uint8_t byte)
{
    return byte == 0x7F || (byte < 0x20 && !between(byte, 8, 10) && byte != 13 && byte != ESC);
}

/* Whether a character beyond ASCII is removed. */
static int is_active(uint32_t code)
{
    return code < 0xA0 || code == 0x61C || between(code, 0x200E, 0x200F) || between(code, 0x202A, 0x202E)
        || between(code, 0x2066, 0x2069);
}

/* What passes of a byte by itself. `closer` in those that may begin more than that: of ESC, and of characters if another
   byte of them follows. `confirms` are the values of `closer` that apply where this byte follows. */
static struct single {
    uint8_t text[4], size, closer, confirms, unused;
} singles[256];

#define CLOSER_IF_MORE 1
#define CLOSER 2

static void fill_singles(void)
{
    for (int byte = 0; byte < 0x100; byte++) {
        struct single *single = &singles[byte];
        if (byte >= 0xA0)
            single->size = put(single->text, 0xFFFD) - single->text;
        else if (byte < 0x80 && !is_control(byte))
            single->text[single->size++] = byte;
        single->closer = byte == ESC ? CLOSER : between(byte, 0xC2, 0xF4) ? CLOSER_IF_MORE : 0;
        single->confirms = is_more(byte) ? CLOSER | CLOSER_IF_MORE : CLOSER;
    }
}

static Bytes skip(Bytes at, Bytes end, uint8_t first, uint8_t last, int limit)
{
    while (limit-- && at < end && between(*at, first, last))
        at++;
    return at;
}

static Bytes skip_string(Bytes at, Bytes end)
{
    uint32_t code;
    for (int left = STRING_LIMIT; left && at < end; left--) {
        if (*at == 7 || *at == 0x18 || *at == 0x1A || *at == ESC)
            break;
        int length = character(at, end, &code);
        if (length > 0 && between(code, 0x80, 0x9F))
            break;
        at += length > 0 ? length : 1;
    }
    return at;
}

static Bytes skip_csi(Bytes at, Bytes end)
{
    return skip(skip(at, end, '0', '?', SEQUENCE_LIMIT), end, ' ', '/', SEQUENCE_LIMIT);
}

/* Whether what follows `ESC [` is one that passes: a colour, erasing in the line, moving to a column. */
static int passes(Bytes at, Bytes end)
{
    Bytes after = skip(at, end, '0', ';', SEQUENCE_LIMIT);
    if (after < end && *after == 'm')
        return 1;
    after = skip(at, end, '0', '2', 1);
    if (after < end && *after == 'K')
        return 1;
    after = skip(at, end, '0', '9', 4);
    return after < end && *after == 'G';
}

/* Whether the two bytes begin a control string. */
static int introduces_string(uint8_t first, uint8_t second)
{
    if (first == C1)
        return starts_string(second);
    return first == ESC && (second == ']' || second == 'P' || second == 'X' || second == '^' || second == '_');
}

static int introduces_csi(uint8_t first, uint8_t second)
{
    return second == (first == C1 ? 0x9B : '[');
}

static Bytes behind_string(Bytes at, Bytes end)
{
    at = skip_string(at, end);
    if (at < end && *at == 7)
        return at + 1;
    if (end - at < 2)
        return at;
    return (at[0] == C1 && at[1] == 0x9C) || (at[0] == ESC && at[1] == '\\') ? at + 2 : at;
}

static Bytes behind_csi(Bytes at, Bytes end)
{
    at = skip_csi(at, end);
    return at < end && between(*at, '@', '~') ? at + 1 : at;
}

/* Where what ESC or C1 begins and is removed ends; `at` itself if it passes. */
static Bytes removed(Bytes at, Bytes end)
{
    uint8_t second = at + 1 < end ? at[1] : 0;
    if (introduces_csi(*at, second))
        return *at == ESC && passes(at + 2, end) ? at : behind_csi(at + 2, end);
    if (introduces_string(*at, second))
        return behind_string(at + 2, end);
    if (*at == C1)
        return at + 2;
    at = skip(at + 1, end, ' ', '/', SEQUENCE_LIMIT);
    return at < end && between(*at, '0', '~') ? at + 1 : at;
}

/* Whether a sequence that ESC or C1 begins may go on after the end. */
static int is_unfinished(Bytes at, Bytes end)
{
    uint8_t second = at + 1 < end ? at[1] : 0;
    if (introduces_csi(*at, second))
        return skip_csi(at + 2, end) == end;
    if (introduces_string(*at, second)) {
        Bytes after = skip_string(at + 2, end);
        return after == end || (after + 1 == end && *after == ESC);
    }
    return *at == ESC && skip(at + 1, end, ' ', '/', SEQUENCE_LIMIT) == end;
}

/* The first unfinished sequence. One cannot be longer than the part that is looked at. */
static Bytes unfinished(Bytes begin, Bytes end)
{
    Bytes at = end - begin > LONGEST * LONGEST_CHARACTER ? end - LONGEST * LONGEST_CHARACTER : begin;
    while (at < end) {
        uint64_t found = 0;
        for (; end - at >= WIDTH && !found; at += before(found))
            found = bits((load(at) == ESC) | (load(at) == (int8_t)C1));
        if (at < end && (*at == ESC || *at == C1) && is_unfinished(at, end))
            return at;
        at += at < end;
    }
    return end;
}

static Bytes behind_colour(Bytes at, Bytes end)
{
    Bytes after = at;
    while (after < end && between(*after, '0', ';'))
        after++;
    if (after < end && *after == 'm')
        return after + 1;
    after = at + (at < end && between(*at, '0', '2'));
    if (after < end && *after == 'K')
        return after + 1;
    for (after = at; after < end && after - at < 4 && between(*after, '0', '9');)
        after++;
    return after < end && *after == 'G' ? after + 1 : NULL;
}

/* The bytes that are neither printable nor the end of a line nor a tab. */
static Vector no_plain_text(Vector text)
{
    return ((text < ' ') & (text != '\n') & (text != '\t')) | (text == 0x7F);
}

/* The bytes that begin a character which may be active. */
static Vector may_be_active(Vector text)
{
    return (text == (int8_t)0xC2) | (text == (int8_t)0xD8) | (text == (int8_t)0xE2);
}

/* Where the characters of the usual forms end that pass for certain. */
static Bytes behind_usual(Bytes begin, Bytes end)
{
    Bytes at = begin;
    uint64_t due = 0;
    for (uint64_t found = 0; !found && end - at >= WIDTH; at += before(found)) {
        Vector text = load(at);
        found = irregular(text, &due) | bits(may_be_active(text)) | (bits(no_plain_text(text)) & ~beyond_ascii(text));
    }
    return whole(begin, at);
}

/* Whether all of it passes as it is. May say no of what does. */
static int is_harmless(Bytes at, Bytes end)
{
    uint32_t code;
    while (at < end) {
        if (end - at >= WIDTH) {
            Vector text = load(at);
            uint64_t found = bits(no_plain_text(text));
            at += before(found);
            if (!found)
                continue;
        }
        if (between(*at, 0x20, 0x7E) || between(*at, 8, 10) || *at == 13) {
            at++;
        } else if (*at >= 0x80) {
            Bytes after = behind_usual(at, end);
            if (after > at) {
                at = after;
                continue;
            }
            int length = character(at, end, &code);
            if (length <= 0 || is_active(code))
                return 0;
            at += length;
        } else {
            Bytes after = *at == ESC && end - at > 2 && at[1] == '[' ? behind_colour(at + 2, end) : NULL;
            if (!after || after - at > SEQUENCE_LIMIT)
                return 0;
            at = after;
        }
    }
    return 1;
}

/* Python's decoder holds it back, although it can become no character. */
static int is_cut_surrogate(Bytes at, Bytes end)
{
    return end - at == 2 && at[0] == 0xED && between(at[1], 0xA0, 0xBF);
}

/* Where the character begins that the data ends within; its end if there is none. */
static Bytes incomplete(Bytes begin, Bytes end)
{
    uint32_t code;
    for (int size = LONGEST_CHARACTER - 1; size; size--) {
        Bytes at = end - size;
        if (at >= begin && *at >= 0xC2 && (character(at, end, &code) == INCOMPLETE || is_cut_surrogate(at, end)))
            return at;
    }
    return end;
}

/* What passes of what ESC or a character of several bytes begins; `at` is moved behind it. */
static uint8_t *pass_closer(uint8_t *out, Bytes *at, Bytes end)
{
    uint32_t code = ESC;
    Bytes begin = *at;
    int length = *begin == ESC ? 1 : character(begin, end, &code);
    if (length <= 0) {          /* each byte by itself: what follows the first of a broken character is none either */
        ++*at;
        return put(out, 0xFFFD);
    }
    if (*begin == ESC || between(code, 0x80, 0x9F)) {
        *at = removed(begin, end);
        if (*at > begin)
            return out;
    }
    *at = begin + length;
    return code != ESC && is_active(code) ? out : put(out, code);
}

/* What passes, without a branch for most bytes. One byte behind the end can be read, and begins nothing. */
static uint8_t *pass(uint8_t *out, Bytes at, Bytes end)
{
    const struct single *table = singles, *single = table + *at;
    while (at < end) {
        const struct single *next = table + at[1];
        if (single->closer & next->confirms) {
            out = pass_closer(out, &at, end);
            single = table + *at;
            continue;
        }
        memcpy(out, single->text, sizeof single->text);
        out += single->size;
        single = next;
        at++;
    }
    return out;
}

/* What of the output may pass, and the bytes at its end that are held back unless it is `final`. */
static PyObject *filter_output(PyObject *module, PyObject *arguments)
{
    PyObject *argument;
    Bytes data, end, stop;
    Py_ssize_t size;
    int final;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "Sp", &argument, &final) || !bytes_of(argument, &data, &size))
        return NULL;
    end = data + size;
    stop = final ? end : incomplete(data, end);
    if (is_harmless(data, stop))
        return stop == end ? Py_BuildValue("(Oy#)", argument, "", (Py_ssize_t)0)
                           : Py_BuildValue("(y#y#)", data, (Py_ssize_t)(stop - data), stop, (Py_ssize_t)(end - stop));
    if (!final)
        stop = unfinished(data, stop);
    /* A byte becomes at most the three of U+FFFD. */
    if (!reserve((size_t)size * 3 + sizeof singles->text))
        return NULL;
    uint8_t *out = pass(buffer, data, stop);
    return Py_BuildValue("(NN)", built(out), PyBytes_FromStringAndSize((const char *)stop, end - stop));
}

/* ---- text without its colours ---- */

static PyObject *uncoloured(PyObject *module, PyObject *argument)
{
    Bytes at, end, found, after;
    Py_ssize_t size;
    (void)module;
    if (!bytes_of(argument, &at, &size) || !reserve(size + 1))
        return NULL;
    end = at + size;
    uint8_t *out = buffer;
    while ((found = memchr(at, ESC, end - at))) {
        after = end - found > 2 && found[1] == '[' ? behind_colour(found + 2, end) : NULL;
        size_t kept = (after ? found : found + 1) - at;
        memcpy(out, at, kept);
        out += kept;
        at = after ? after : found + 1;
    }
    memcpy(out, at, end - at);
    return built(out + (end - at));
}

/* ---- a search for many texts at once ---- */

#define GRAM 3                  /* bytes of a text that are looked up */
#define SLOTS (1 << 15)
#define NONE UINT16_MAX
#define SET 32                  /* bytes of a set of bytes, one bit each */
#define STEP (SET + 2)          /* a set, and how many bytes of it there are at least and at most */
#define LOOKED_AT 64            /* bytes behind a text that are compared with what has to follow it */

typedef struct {
    uint8_t used[SLOTS];
    uint16_t first[SLOTS], count;
    uint8_t *bytes;
    struct needle {
        size_t at;                      /* where in `bytes` the text is; what may not precede and has to follow are behind it */
        size_t size, before, after;     /* the bytes of the three */
        size_t gram;                    /* where in the text the looked up bytes are */
        uint32_t key;                   /* these bytes; others have the same slot */
        uint16_t next;
    } needles[];
} Search;

/* Where three bytes are looked up. They are the lowest of `gram`; the factor has no use for those above them. */
static uint32_t slot(uint32_t gram)
{
    return gram * 0x3779B100u >> 17;
}

static uint32_t gram_at(Bytes at)
{
    return (uint32_t)at[2] << 16 | at[1] << 8 | at[0];
}

/* The same, read with the byte behind it. */
static uint32_t four_at(Bytes at)
{
    uint32_t four;
    memcpy(&four, at, 4);
    return four;
}

static int rarity(uint8_t byte)
{
    return between(byte, 'a', 'z') || byte == ' ' ? 1 : between(byte, '0', '9') ? 2 : 3;
}

static size_t rarest(Bytes text, size_t size)
{
    size_t found = 0;
    int best = 0;
    for (size_t at = 0; at + GRAM <= size; at++) {
        int score = rarity(text[at]) + rarity(text[at + 1]) + rarity(text[at + 2]);
        if (score > best) {
            best = score;
            found = at;
        }
    }
    return found;
}

static void forget(PyObject *capsule)
{
    Search *search = PyCapsule_GetPointer(capsule, "search");
    PyMem_Free(search->bytes);
    PyMem_Free(search);
}

/* Whether the rows of sets are whole: each a number of sets, and these. */
static int are_rows(Bytes at, Bytes end)
{
    while (at < end) {
        if ((end - at - 1) / SET < *at)
            return 0;
        at += 1 + *at * SET;
    }
    return 1;
}

static int is_needle(Py_ssize_t size, Bytes before, Py_ssize_t before_size, Py_ssize_t after_size)
{
    if (size < GRAM)
        PyErr_SetString(PyExc_ValueError, "a text is too short");
    else if (!are_rows(before, before + before_size) || after_size % STEP)
        PyErr_SetString(PyExc_ValueError, "what precedes or follows a text is cut");
    else
        return 1;
    return 0;
}

static int add_needle(Search *search, PyObject *item, size_t *used)
{
    PyObject *parts[3];
    Bytes text, before, after;
    Py_ssize_t size, before_size, after_size;
    if (!PyArg_ParseTuple(item, "SSS", &parts[0], &parts[1], &parts[2]) || !bytes_of(parts[0], &text, &size)
        || !bytes_of(parts[1], &before, &before_size) || !bytes_of(parts[2], &after, &after_size)
        || !is_needle(size, before, before_size, after_size))
        return 0;
    uint8_t *larger = PyMem_Realloc(search->bytes, *used + size + before_size + after_size);
    if (!larger) {
        PyErr_NoMemory();
        return 0;
    }
    search->bytes = larger;
    memcpy(larger + *used, text, size);
    memcpy(larger + *used + size, before, before_size);
    memcpy(larger + *used + size + before_size, after, after_size);
    struct needle *needle = &search->needles[search->count];
    size_t gram = rarest(text, size);
    uint32_t key = gram_at(text + gram), place = slot(key);
    *needle = (struct needle){*used, size, before_size, after_size, gram, key, search->first[place]};
    search->first[place] = search->count++;
    search->used[place] = 1;
    *used += size + before_size + after_size;
    return 1;
}

static PyObject *compile_search(PyObject *module, PyObject *list)
{
    size_t used = 0;
    Py_ssize_t count = PyList_Size(list);
    (void)module;
    if (count < 0)
        return NULL;
    if (count >= NONE) {
        PyErr_SetString(PyExc_ValueError, "too many texts");
        return NULL;
    }
    Search *search = PyMem_Calloc(1, sizeof(Search) + count * sizeof(struct needle));
    if (!search)
        return PyErr_NoMemory();
    memset(search->first, 0xFF, sizeof search->first);
    for (Py_ssize_t number = 0; number < count; number++) {
        if (!add_needle(search, PyList_GetItem(list, number), &used)) {
            PyMem_Free(search->bytes);
            PyMem_Free(search);
            return NULL;
        }
    }
    return PyCapsule_New(search, "search", forget);
}

static int in_set(Bytes set, uint8_t byte)
{
    return set[byte >> 3] >> (byte & 7) & 1;
}

/* Whether what is before `at` is one of the rows of sets. */
static int is_preceded(Bytes begin, Bytes at, Bytes row, Bytes last)
{
    while (row < last) {
        ptrdiff_t count = *row++, same = 0;
        if (at - begin >= count)
            while (same < count && in_set(row + same * SET, at[same - count]))
                same++;
        if (same == count)
            return 1;
        row += count * SET;
    }
    return 0;
}

/* Whether the steps may follow at `at`. Only so many bytes are looked at: behind them, anything may follow. */
static int may_follow(Bytes at, Bytes end, Bytes step, Bytes last)
{
    Bytes limit = end - at > LOOKED_AT ? at + LOOKED_AT : end;
    for (; step < last; step += STEP) {
        int least = step[SET], most = step[SET + 1], count = 0;
        for (; count < most && at < limit && in_set(step, *at); at++)
            count++;
        if (at == limit && limit < end)
            return 1;
        if (count < least)
            return 0;
    }
    return 1;
}

static int add_place(PyObject *list, int number, Py_ssize_t place)
{
    PyObject *pair = Py_BuildValue("(in)", number, place);
    int failed = !pair || PyList_Append(list, pair) < 0;
    Py_XDECREF(pair);
    return !failed;
}

/* Add those of the texts with these three bytes that are around `at`. */
static int confirm(const Search *search, Bytes begin, Bytes at, Bytes end, PyObject *list)
{
    uint32_t key = gram_at(at);
    for (uint16_t number = search->first[slot(key)]; number != NONE; number = search->needles[number].next) {
        const struct needle *needle = &search->needles[number];
        if (needle->key != key || (size_t)(at - begin) < needle->gram || (size_t)(end - at) < needle->size - needle->gram)
            continue;
        Bytes place = at - needle->gram, text = search->bytes + needle->at;
        Bytes before = text + needle->size, after = before + needle->before;
        if (!memcmp(place, text, needle->size) && !is_preceded(begin, place, before, after)
            && may_follow(place + needle->size, end, after, after + needle->after)
            && !add_place(list, number, place - begin))
            return 0;
    }
    return 1;
}

/* The next place from `at` on with three bytes of a text; `end` if there is none. */
static Bytes candidate(const Search *search, Bytes at, Bytes end)
{
    const uint8_t *used = search->used;
    for (ptrdiff_t rounds = (end - at - GRAM) / 4; rounds > 0; rounds--, at += 4) {
        if (used[slot(four_at(at))])
            return at;
        if (used[slot(four_at(at + 1))])
            return at + 1;
        if (used[slot(four_at(at + 2))])
            return at + 2;
        if (used[slot(four_at(at + 3))])
            return at + 3;
    }
    for (; end - at >= GRAM; at++)
        if (used[slot(gram_at(at))])
            return at;
    return end;
}

static PyObject *find_all(PyObject *module, PyObject *arguments)
{
    PyObject *capsule, *argument;
    Bytes begin, end;
    Py_ssize_t size;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "OS", &capsule, &argument) || !bytes_of(argument, &begin, &size))
        return NULL;
    const Search *search = PyCapsule_GetPointer(capsule, "search");
    PyObject *list = search ? PyList_New(0) : NULL;
    if (!list || size < GRAM)
        return list;
    end = begin + size;
    for (Bytes at = begin; (at = candidate(search, at, end)) < end; at++) {
        if (!confirm(search, begin, at, end, list)) {
            Py_DECREF(list);
            return NULL;
        }
    }
    return list;
}

/* ---- the module ---- */

static PyMethodDef functions[] = {
    {"encode_lines", encode_lines, METH_O, NULL},
    {"split_items", split_items, METH_O, NULL},
    {"is_overwritten", is_overwritten, METH_O, NULL},
    {"shown_lines", shown_lines, METH_O, NULL},
    {"line_frames", line_frames, METH_VARARGS, NULL},
    {"filter_output", filter_output, METH_VARARGS, NULL},
    {"uncoloured", uncoloured, METH_O, NULL},
    {"compile_search", compile_search, METH_O, NULL},
    {"find_all", find_all, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_output", NULL, -1, functions, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__output(void)
{
    PyObject *module = PyModule_Create(&definition);
    for (int byte = 0x20; byte < 0x80; byte++)
        plain[byte] = byte != '"' && byte != '\\';
    fill_singles();
    if (module && PyModule_AddStringConstant(module, "VERSION", "output 3") < 0)
        Py_CLEAR(module);
    return module;
}
