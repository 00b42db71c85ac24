// A call of a hook, signed in the browser as Standard Webhooks describe it.

// Pages without TLS, except those of this computer, cannot sign.
export const canSign = () => window.crypto?.subtle !== undefined;

// The headers of a call with this body.
export async function signedHeaders(secret, body) {
  const [id, now] = [crypto.randomUUID(), Math.floor(Date.now() / 1000)];
  const bytes = Uint8Array.from(atob(secret.replace("whsec_", "")), (character) => character.charCodeAt(0));
  const key = await crypto.subtle.importKey("raw", bytes, { name: "HMAC", hash: "SHA-256" }, false, ["sign"]);
  const digest = await crypto.subtle.sign("HMAC", key, new TextEncoder().encode(`${id}.${now}.${body}`));
  return {
    "Content-Type": "application/json",
    "webhook-id": id,
    "webhook-timestamp": String(now),
    "webhook-signature": `v1,${btoa(String.fromCharCode(...new Uint8Array(digest)))}`,
  };
}
