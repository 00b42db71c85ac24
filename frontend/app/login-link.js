// The ticket of a one-time login link. It is removed from the address before anything else runs, so that it stays
// neither in the browser's history nor in what is copied from the address bar.

const LOGIN = /^#login=(gl_[\w-]{1,190})$/;

export function takeTicket() {
  const ticket = LOGIN.exec(window.location.hash)?.[1] ?? null;
  if (window.location.hash.startsWith("#login=")) {
    window.history.replaceState(null, "", window.location.pathname + window.location.search);
  }
  return ticket;
}

export const initialTicket = takeTicket();
