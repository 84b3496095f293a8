"""Parameters of a command made from the fields of a dataclass, so that an option is declared once."""

from collections.abc import Callable
from dataclasses import fields
from functools import wraps
from inspect import Parameter, Signature, signature
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from gloria.cli.common import plain_errors


def takes_fields_of(kind: type) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a command with the parameter `options`, an instance of a dataclass, take each option of it by itself.

    Name, type and default of an option are those of the field; limits and help are those of the `typer.Option` that the
    field is annotated with. Fields without one keep their defaults. A tuple of any length is an option that may be
    given several times.

    Args:
        kind: the dataclass.
    """
    annotated = get_type_hints(kind, include_extras=True).items()
    hints = {name: get_args(hint) for name, hint in annotated if get_origin(hint) is Annotated}

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @wraps(command)
        def with_fields(**given: Any) -> None:
            values = {name: given.pop(name) for name in hints}
            with plain_errors():
                options = kind(**{name: tuple(v) if isinstance(v, list) else v for name, v in values.items()})
            command(options=options, **given)

        own = signature(command, eval_str=True).parameters.values()
        before = [each for each in own if each.name != "options"]
        defaults = {each.name: each.default for each in fields(kind)}
        made = [
            Parameter(
                name, Parameter.KEYWORD_ONLY, default=defaults[name], annotation=Annotated[_type_to_read(hint), option]
            )
            for name, (hint, option) in hints.items()
        ]
        with_fields.__signature__ = Signature(  # type: ignore[attr-defined]
            [*(each.replace(kind=Parameter.KEYWORD_ONLY) for each in before), *made]
        )
        return with_fields

    return decorate


def _type_to_read(hint: Any) -> Any:
    return list[get_args(hint)[0]] if get_origin(hint) is tuple else hint  # type: ignore[misc]
