// The login of all tabs of this page: a new tab asks the others for it, and each passes on when it changes. So it
// is stored by the tabs alone, and is gone when the last of them is closed.

export class SharedLogin {
  // `on` has: offered(token), replaced(token), ended(), each from another tab
  constructor(credentials, on) {
    this.credentials = credentials;
    this.on = on;
    this.channel = new BroadcastChannel("gatepost.login");
    this.channel.addEventListener("message", ({ data }) => HANDLERS[data.type]?.call(this, data));
  }

  ask() {
    if (this.credentials.login === null) this.channel.postMessage({ type: "ask" });
  }

  offer(token) {
    this.channel.postMessage({ type: "offer", token });
  }

  replace(before, token) {
    this.channel.postMessage({ type: "replace", before, token });
  }

  end(token) {
    this.channel.postMessage({ type: "end", token });
  }
}

const HANDLERS = {
  ask() {
    if (this.credentials.login !== null) this.offer(this.credentials.login);
  },
  offer({ token }) {
    if (this.credentials.login === null) this.on.offered(token);
  },
  replace({ before, token }) {
    if (this.credentials.login === before) this.on.replaced(token);
  },
  end({ token }) {
    if (this.credentials.login === token) this.on.ended();
  },
};
