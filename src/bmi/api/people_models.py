"""What the API shows of people: users, members, tokens, and what they did."""

from datetime import datetime
from typing import Self

from pydantic import Field

from bmi.api.models import Shown, moment, time_of
from bmi.domain.nouns import Actor, AuditEntry, Role
from bmi.service.access import Identity, NewToken, TokenView
from bmi.service.users import MemberView, UserView


class Whoami(Shown):
    name: str
    role: Role
    project: str | None
    user: str | None = Field(description="The user; a service's token has none.")
    expires_at: datetime | None

    @classmethod
    def of(cls, actor: Actor, identity: Identity) -> Self:
        return cls(
            name=actor.name,
            role=actor.role,
            project=identity.project,
            user=identity.user,
            expires_at=moment(identity.expires_at),
        )


class TokenShown(Shown):
    id: str
    name: str
    role: Role
    project: str | None
    user: str | None = Field(description="Whose it is; a service's is nobody's.")
    session: bool = Field(description="Whether a login made it.")
    created_at: datetime
    expires_at: datetime | None

    @classmethod
    def of(cls, view: TokenView) -> Self:
        token = view.token
        return cls(
            id=token.id,
            name=token.name,
            role=token.role,
            project=view.project,
            user=view.user,
            session=token.session,
            created_at=time_of(token.created_at),
            expires_at=moment(token.expires_at),
        )


class NewTokenShown(TokenShown):
    secret: str = Field(description="What to send as bearer token. It is shown this once.")

    @classmethod
    def of_new(cls, new: NewToken, view: TokenView) -> Self:
        return cls(**dict(TokenShown.of(view)), secret=new.secret)


class OidcLoginShown(Shown):
    url: str = Field(description="The provider's page, for a browser.")


class UserShown(Shown):
    name: str
    admin: bool
    disabled: bool
    password: bool = Field(description="Whether there is one.")
    issuer: str | None
    subject: str | None
    projects: dict[str, Role]
    created_at: datetime

    @classmethod
    def of(cls, view: UserView) -> Self:
        user = view.user
        return cls(
            name=user.name,
            admin=user.admin,
            disabled=user.disabled,
            password=user.password_hash is not None,
            issuer=user.issuer,
            subject=user.subject,
            projects=dict(view.projects),
            created_at=time_of(user.created_at),
        )


class MemberShown(Shown):
    user: str
    role: Role

    @classmethod
    def of(cls, view: MemberView) -> Self:
        return cls(user=view.user, role=view.role)


class AuditEntryShown(Shown):
    id: int
    at: datetime
    actor: str = Field(description="The user's or the token's name; `-` for nobody known.")
    user_id: str | None
    token_id: str | None
    address: str = Field(description="Where the request came from.")
    action: str = Field(
        description="The operation of /v1/openapi.json; `flood` where further refusals are not written down."
    )
    object: str
    project: str | None
    status: int = Field(description="Of the answer.")
    problem: str | None = Field(description="The kind of refusal.")
    detail: str | None = Field(description="What was asked for, as far as it is rights and numbers.")

    @classmethod
    def of(cls, entry: AuditEntry) -> Self:
        return cls(
            id=entry.id,
            at=time_of(entry.at),
            actor=entry.actor,
            user_id=entry.user_id,
            token_id=entry.token_id,
            address=entry.address,
            action=entry.action,
            object=entry.object,
            project=entry.project,
            status=entry.status,
            problem=entry.problem,
            detail=entry.detail,
        )
