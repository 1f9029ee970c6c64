"""What it means that the hub does not let somebody read a model, and what a user does about it.

In comes the error of huggingface_hub, out goes half a sentence. It never holds a token.
"""


def refusal_of(error: Exception, page: str, has_token: bool) -> str | None:
    """Returns why a model may not be read; None: the hub said something else.

    Args:
        page: the model's address, where its licence is
        has_token: whether HF_TOKEN is set
    """
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    status = getattr(getattr(error, "response", None), "status_code", None)
    licence = f"accept the licence on {page}"
    token = "set HF_TOKEN in the environment to"
    is_gated = isinstance(error, GatedRepoError)  # one of those that are not found
    if isinstance(error, RepositoryNotFoundError) and not is_gated:
        return (
            f"there is no such model, or it is private or gated: check its name, {licence} if "
            f"there is one, and {token} a token of an account that may read it"
        )
    if (is_gated or status in (401, 403)) and not has_token:
        return f"it is gated: {licence}, and {token} a token of that account"
    if is_gated or status == 403:
        return (
            f"it is gated, and the token in HF_TOKEN may not read it: {licence} with its account, "
            f"or {token} a token that may read it"
        )
    if status == 401:
        return (
            f"the token in HF_TOKEN is not valid: {token} one that is, and for a gated model "
            f"{licence} as well"
        )
    return None
