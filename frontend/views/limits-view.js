// How many commands and checks the client has left, and when more come.

import { readLimits } from "../app/api.js";
import { duration } from "../components/format.js";

export class LimitsView {
  // `token()` is that of the account, or null
  constructor(token) {
    this.token = token;
    this.forget();
  }

  forget() {
    this.scarcest = null; // { name, limit, remaining, moreAt }
    this.requests = (this.requests ?? 0) + 1; // only the answer to the last one is shown
  }

  async load() {
    const number = (this.requests += 1);
    const limits = await readLimits(this.token()).catch(() => null);
    if (number === this.requests) this.scarcest = limits && scarcest(limits);
  }

  // Empty while all is left.
  text() {
    if (this.scarcest === null || this.scarcest.remaining === this.scarcest.limit) return "";
    const { name, limit, remaining, moreAt } = this.scarcest;
    const wait = moreAt - Date.now();
    if (wait <= 0) this.reload();
    return `${remaining} of ${limit} ${name} left, one more in ${duration(Math.max(wait, 1000), 0)}`;
  }

  // One more is accepted by now; the server says how many there are.
  reload() {
    this.scarcest.moreAt = Date.now() + 1000;
    this.load();
  }
}

function scarcest(limits) {
  const [first] = Object.entries(limits).sort(([, one], [, other]) => share(one) - share(other));
  const [name, { limit, remaining, reset }] = first;
  return { name, limit, remaining, moreAt: Date.now() + reset * 1000 };
}

const share = ({ limit, remaining }) => remaining / limit;
