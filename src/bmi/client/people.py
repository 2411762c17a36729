"""The calls about people: logging in, tokens, users, members, and what they did."""

from typing import Literal, cast

from bmi.client.documents import AuditEntry, Member, NewToken, Token, User
from bmi.client.transport import Transport, path

ProjectRole = Literal["member", "reader"]


class PeopleCalls(Transport):
    """What Client has of them."""

    # ---- logging in ---------------------------------------------------------------------------------

    def log_in(self, user: str, password: str, *, project: str | None = None) -> NewToken:
        """A session's token; needs none."""
        body = {"user": user, "password": password, "project": project}
        return cast("NewToken", self._call("POST", "/login", body))

    def begin_oidc_login(self, challenge: str, *, redirect: str = "") -> str:
        """The OpenID provider's page to send a browser to; needs no token."""
        body = {"challenge": challenge, "redirect": redirect}
        return cast("str", self._call("POST", "/login/oidc", body)["url"])

    def redeem_oidc_login(self, code: str, verifier: str, *, project: str | None = None) -> NewToken:
        """A session's token, for the code that the browser came back with; needs none."""
        body = {"code": code, "verifier": verifier, "project": project}
        return cast("NewToken", self._call("POST", "/login/oidc/token", body))

    def log_out(self) -> None:
        """Ends the session whose token is used."""
        self._call("DELETE", "/login")

    def change_password(self, current: str, new: str) -> None:
        """Changes one's own password; ends one's other sessions."""
        self._call("PUT", "/password", {"current": current, "new": new})

    # ---- tokens -------------------------------------------------------------------------------------

    def list_tokens(self) -> list[Token]:
        """The tokens of who has logged in, or all for an administrator, or the one that asks; without secrets."""
        return cast("list[Token]", self._list("/tokens"))

    def create_token(
        self,
        name: str,
        *,
        project: str | None = None,
        role: ProjectRole | None = None,
        lifetime_s: float | None = None,
        own: bool = False,
    ) -> NewToken:
        """A service's token for an administrator, and one of their `own` for others; `secret` is known only now."""
        body = {"name": name, "project": project, "role": role, "lifetime_s": lifetime_s, "own": own}
        return cast("NewToken", self._call("POST", "/tokens", body))

    def revoke_token(self, name: str) -> None:
        """Ends a token at once; by its name or its id."""
        self._call("DELETE", path("tokens", name))

    # ---- users --------------------------------------------------------------------------------------

    def list_users(self) -> list[User]:
        """All users."""
        return cast("list[User]", self._list("/users"))

    def get_user(self, name: str) -> User:
        """One user."""
        return cast("User", self._get(path("users", name)))

    def create_user(self, name: str, *, admin: bool = False, password: str | None = None) -> User:
        """Makes a user known."""
        return cast(
            "User", self._call("POST", "/users", {"name": name, "admin": admin, "password": password})
        )

    def change_user(
        self,
        name: str,
        *,
        admin: bool | None = None,
        disabled: bool | None = None,
        link: tuple[str, str] | None = None,
    ) -> User:
        """Changes what is given; `link` is an OpenID provider's issuer and subject, or empty texts for none."""
        body = {
            "admin": admin,
            "disabled": disabled,
            "link": {"issuer": link[0], "subject": link[1]} if link else None,
        }
        return cast("User", self._call("PATCH", path("users", name), body))

    def set_password(self, name: str, password: str | None, *, end_tokens: bool = False) -> None:
        """Sets a user's password, or takes it away; ends their logins, and perhaps the tokens they have made."""
        body = {"password": password, "end_tokens": end_tokens}
        self._call("PUT", path("users", name, "password"), body)

    def unlock_user(self, name: str) -> None:
        """Forgives a user's failed logins."""
        self._call("DELETE", path("users", name, "lock"))

    def list_members(self, project: str) -> list[Member]:
        """Who is in a project."""
        return cast("list[Member]", self._list(path("projects", project, "members")))

    def set_member(self, project: str, user: str, role: ProjectRole) -> Member:
        """Makes a user a member or a reader of a project."""
        return cast("Member", self._call("PUT", path("projects", project, "members", user), {"role": role}))

    def remove_member(self, project: str, user: str) -> None:
        """Takes a user out of a project."""
        self._call("DELETE", path("projects", project, "members", user))

    # ---- the audit log ------------------------------------------------------------------------------

    def list_audit(
        self, *, by: str | None = None, refused: bool = False, limit: int | None = None
    ) -> list[AuditEntry]:
        """Who did what, newest first."""
        found = self._list("/audit", limit=limit, by=by, refused="true" if refused else None)
        return cast("list[AuditEntry]", found)
