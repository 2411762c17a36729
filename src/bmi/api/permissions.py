"""Who may call what: one line for every route, and the one dependency that holds everybody to it.

A line says which kind of caller may ask at all. Whether the object is theirs is for the use cases to say.
"""

from collections.abc import Iterable
from enum import StrEnum
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.routing import APIRoute
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from bmi.domain.nouns import Actor, Role
from bmi.errors import ForbiddenError, UnauthenticatedError
from bmi.service import access


class Permission(StrEnum):
    """Who may ask; each but the first includes all that are behind it."""

    PUBLIC = "public"
    # About the caller's own token and name: any good token may.
    AUTHENTICATED = "authenticated"
    # Looks at what is the project's.
    READER = "reader"
    # Changes what is the project's.
    MEMBER = "member"
    ADMIN = "admin"


PUBLIC, AUTHENTICATED, READER, MEMBER, ADMIN = Permission

PERMISSIONS = {
    # site
    "health": PUBLIC,
    "whoami": AUTHENTICATED,
    # logging in
    "log_in": PUBLIC,
    "begin_oidc_login": PUBLIC,
    "confirm_oidc_login": PUBLIC,
    "finish_oidc_login": PUBLIC,
    "redeem_oidc_login": PUBLIC,
    "log_out": AUTHENTICATED,
    "change_password": AUTHENTICATED,
    # tokens: one's own, or those of services
    "list_tokens": AUTHENTICATED,
    "create_token": AUTHENTICATED,
    "revoke_token": AUTHENTICATED,
    # people
    "list_users": ADMIN,
    "create_user": ADMIN,
    "get_user": ADMIN,
    "change_user": ADMIN,
    "set_password": ADMIN,
    "unlock_user": ADMIN,
    "list_members": READER,
    "set_member": ADMIN,
    "remove_member": ADMIN,
    "list_audit": ADMIN,
    # projects
    "list_projects": READER,
    "create_project": ADMIN,
    "get_project": READER,
    "delete_project": ADMIN,
    "project_usage": READER,
    "set_quota": ADMIN,
    # switches
    "list_switches": ADMIN,
    "register_switch": ADMIN,
    "get_switch": ADMIN,
    "change_switch": ADMIN,
    "remove_switch": ADMIN,
    "list_ports": ADMIN,
    "check_switch": ADMIN,
    "cable": ADMIN,
    # nodes
    "list_nodes": READER,
    "register_node": ADMIN,
    "get_node": READER,
    "delete_node": ADMIN,
    "provision_node": MEMBER,
    "release_node": MEMBER,
    "power_node": MEMBER,
    "list_events": READER,
    "sync_nodes": ADMIN,
    "show_pool": READER,
    "list_networks": READER,
    "get_network": READER,
    "create_network": MEMBER,
    "publish_network": ADMIN,
    "delete_network": MEMBER,
    "share_network": MEMBER,
    "unshare_network": MEMBER,
    "attach_network": MEMBER,
    "detach_network": MEMBER,
    "allocate_nodes": MEMBER,
    "free_node": MEMBER,
    "label_node": ADMIN,
    "create_snapshot": MEMBER,
    "roll_back_node": MEMBER,
    # images
    "list_images": READER,
    "import_image": MEMBER,
    "make_image": MEMBER,
    "get_image": READER,
    "change_image": MEMBER,
    "delete_image": MEMBER,
    "share_image": MEMBER,
    "unshare_image": MEMBER,
    "move_image": ADMIN,
    "flatten_image": MEMBER,
    "publish_image": ADMIN,
    "prepare_download": MEMBER,
    "get_content": READER,
    # uploads
    "describe_uploads": PUBLIC,
    "create_upload": MEMBER,
    "get_upload": MEMBER,
    "append_upload": MEMBER,
    "delete_upload": MEMBER,
    # volumes
    "list_volumes": READER,
    "diff": MEMBER,
    "get_volume": READER,
    "rename_volume": MEMBER,
    "delete_volume": MEMBER,
    "flatten_volume": MEMBER,
    "roll_back_volume": MEMBER,
    "create_volume_snapshot": MEMBER,
    # snapshots
    "list_snapshots": READER,
    "get_snapshot": READER,
    "rename_snapshot": MEMBER,
    "delete_snapshot": MEMBER,
    # storage
    "lineage": READER,
    "check_storage": ADMIN,
    # operations
    "list_operations": READER,
    "get_operation": READER,
    "cancel_operation": MEMBER,
    "retry_operation": MEMBER,
}

_ORDER = list(Permission)
_OF_ROLE = {Role.READER: READER, Role.MEMBER: MEMBER, Role.ADMIN: ADMIN}

_bearer = HTTPBearer(auto_error=False, description="A token from `bmi login` or `bmi token create`.")


def allows(role: Role, needed: Permission) -> bool:
    """Whether a token with this role may call a route with this line."""
    return _ORDER.index(_OF_ROLE[role]) >= _ORDER.index(needed)


def permit(request: Request, given: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]) -> None:
    """Lets a request through to its route, or raises UnauthenticatedError or ForbiddenError."""
    name = request.scope["route"].name
    needed = PERMISSIONS[name]
    request.state.action = name
    if needed is PUBLIC:
        return
    if given is None:
        raise UnauthenticatedError(
            "The request has no token.", remedy="Log in (bmi login), or send `Authorization: Bearer …`."
        )
    actor = access.authenticate(request.app.state.core, given.credentials)
    request.state.actor = actor
    if not allows(actor.role, needed):
        raise ForbiddenError(
            f"Only {'an administrator' if needed is ADMIN else 'a member of the project'} may do this.",
            remedy=f"Use {'an administrator' if needed is ADMIN else 'a member'}'s token.",
            needs=needed,
        )


async def permitted(request: Request) -> Actor:
    """Whom `permit` has let through."""
    actor: Actor = request.state.actor
    return actor


def check(routers: Iterable[APIRouter]) -> None:
    """Refuses routes that have no line, and lines that have no route."""
    names = {route.name for router in routers for route in router.routes if isinstance(route, APIRoute)}
    if odd := names ^ PERMISSIONS.keys():
        raise LookupError(f"Routes and lines of the permission table do not match: {', '.join(sorted(odd))}.")
