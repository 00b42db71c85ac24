// What an access token says about itself. Times are Unix seconds of the server; how far the clock of this browser is off
// is found out when a token has just been issued.

import { lasting } from "./storage.js";

const FRESH_LINK = 15 * 60; // seconds after a login by link in which a password may be set without the current one

// Null for an API token, which has no end that the page could know.
function claimsOf(token) {
  try {
    const payload = token.split(".")[1].replaceAll("-", "+").replaceAll("_", "/");
    return JSON.parse(atob(payload));
  } catch {
    return null;
  }
}

const clock = () => Date.now() / 1000;
const serverClock = () => clock() - lasting.get("skew", 0);

export function justIssued(token) {
  const claims = claimsOf(token);
  if (claims) lasting.set("skew", clock() - claims.iat);
  return token;
}

export const isRenewable = (token) => token !== null && claimsOf(token) !== null;
export const hasExpired = (token) => (claimsOf(token)?.exp ?? Infinity) <= serverClock() + 1;

export function isFreshLink(token) {
  const { amr, auth_time: begun } = claimsOf(token) ?? {};
  return amr?.[0] === "link" && serverClock() - begun < FRESH_LINK;
}

// Half of its life is over, and not all of it; `usedAt` is when the page was last used, in milliseconds of this browser.
export function isDue(token, usedAt) {
  const { iat, exp } = claimsOf(token);
  const now = serverClock();
  const usedSince = usedAt / 1000 - lasting.get("skew", 0) > iat;
  return usedSince && now > (iat + exp) / 2 && now < exp;
}
