// Browser storage that never throws: a browser may refuse it, and the page works without.

export class Store {
  constructor(open) {
    this.open = open;
  }

  get(key, otherwise) {
    try {
      const text = this.open().getItem(`gatepost.${key}`);
      return text === null ? otherwise : JSON.parse(text);
    } catch {
      return otherwise;
    }
  }

  set(key, value) {
    try {
      this.open().setItem(`gatepost.${key}`, JSON.stringify(value));
    } catch {
      // Refused or full: the value lasts as long as the page.
    }
  }

  remove(key) {
    try {
      this.open().removeItem(`gatepost.${key}`);
    } catch {
      // Nothing was stored.
    }
  }
}

export const lasting = new Store(() => window.localStorage);
export const thisTab = new Store(() => window.sessionStorage);
