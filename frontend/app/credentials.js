// The tokens of this tab: that of the account that is logged in, and the access token of visitors.

export class Credentials {
  constructor(store) {
    this.store = store;
    this.login = store.get("login", null);
    this.visitor = store.get("token", null);
  }

  get token() {
    return this.login ?? this.visitor;
  }

  logIn(token) {
    this.login = token;
    this.store.set("login", token);
  }

  logOut() {
    this.login = null;
    this.store.remove("login");
  }

  // A token that was typed in. It is taken for the visitors' one until the server says that it is an account's.
  enter(token) {
    this.visitor = token;
    this.store.set("token", token);
  }

  forgetEntered() {
    this.visitor = null;
    this.store.remove("token");
  }

  enteredIsLogin() {
    this.logIn(this.visitor);
    this.forgetEntered();
  }
}
