"""Makes the parameters of a command from the fields of a dataclass, so that an option is declared once."""

from collections.abc import Callable
from dataclasses import fields
from functools import wraps
from inspect import Parameter, Signature, signature
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from gloria.cli.common import plain_errors

KEYWORD = Parameter.KEYWORD_ONLY


def takes_fields_of(kind: type) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Replace a command's parameter `options`, an instance of a dataclass, by one option for each field.

    An option has the name, type and default of its field, and limits and help of the `typer.Option` in the field's
    annotation. Fields without a `typer.Option` keep their defaults. A tuple becomes an option that may be given several
    times.

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

        own = [each.replace(kind=KEYWORD) for each in signature(command, eval_str=True).parameters.values()]
        made = [
            Parameter(each.name, KEYWORD, default=each.default, annotation=_typer_annotation(*hints[each.name]))
            for each in fields(kind)
            if each.name in hints
        ]
        parameters = [*(each for each in own if each.name != "options"), *made]
        with_fields.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
        return with_fields

    return decorate


def _typer_annotation(hint: Any, option: Any) -> Any:
    return Annotated[list[get_args(hint)[0]] if get_origin(hint) is tuple else hint, option]  # type: ignore[misc]
