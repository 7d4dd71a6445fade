"""Build the objects that a configuration describes, and name a wrong option in one sentence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_type_hints

from hydra.utils import get_class, instantiate

from speechforget.errors import UserError


def instantiate_target(options: Mapping[str, Any], group: str, **arguments: Any) -> Any:
    """Build the object that `_target_` names.

    group: the config group, for error messages. arguments: passed beside the options.
    Raises UserError for an unknown option and for a value of the wrong type.
    """
    _check_types(options, group)
    try:
        return instantiate(dict(options), **arguments, _convert_="all")
    except Exception as error:
        cause: BaseException = error
        while cause.__cause__ is not None and not isinstance(cause, UserError):
            cause = cause.__cause__
        if isinstance(cause, UserError):
            raise cause from None
        if isinstance(cause, (TypeError, ImportError, ValueError)):
            raise UserError(f"The {group} '{options['_target_']}' cannot be built as asked: {cause}.") from error
        raise


def _check_types(options: Mapping[str, Any], group: str) -> None:
    """Raise UserError where a number, a string or a truth value has another type than its argument."""
    try:
        target = get_class(options["_target_"])
        # A class may pass arguments on to its parent, so those of all constructors count.
        kinds = [kind for kind in reversed(target.__mro__) if "__init__" in vars(kind)]
        hints = {name: hint for kind in kinds for name, hint in get_type_hints(kind.__init__).items()}  # type: ignore[misc]
    except Exception:  # the target itself is wrong; building it gives the better message
        return
    for name, kind in hints.items():
        value = options.get(name)
        if kind in {int, float, bool, str} and value is not None:
            fits = isinstance(value, (int, float) if kind is float else kind)
            if not fits or (kind is not bool and isinstance(value, bool)):
                raise UserError(f"{group}.{name} must be of the type '{kind.__name__}', not {value!r}.")
