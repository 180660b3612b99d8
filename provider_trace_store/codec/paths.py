"""The place of a value in a document, as errors show it: keys that a host chose are content, and are not shown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

_MAX_STEPS: Final = 12

# Names of fields of the providers' APIs. A key can hold anything, such as an e-mail address, a token or a user's text;
# no pattern tells these from names, so only these names are shown.
_FIELD_NAMES: Final = frozenset(
    """
    annotations arguments audio avg_logprobs base64 batch blob body bytes cache_control caller candidates choices
    citation_metadata citations code completion completion_tokens completion_tokens_details config content contents
    context create_time created created_at data deltas delta description detail details documents embedding embeddings
    end_index error event expires_at extra_body extra_headers file file_data file_id filename finish_message
    finish_reason format function function_call function_declarations function_response functions generation_config
    grounding_metadata headers id image image_url index inline_data input input_audio input_schema input_tokens
    instructions item items json_schema kwargs level llm_config logprob logprobs max_output_tokens max_tokens message
    messages metadata mime_type mode model model_version name object options output output_text output_tokens
    parallel_tool_calls parameters params parent part partial parts payload phase previous_response_id prompt
    prompt_feedback prompt_tokens prompt_tokens_details properties provider reasoning reasoning_content
    reasoning_details refusal
    request required response response_format response_id result results role safety_ratings safety_settings schema
    seed service_tier settings signature source stats status stop stop_reason stop_sequence stop_sequences stream
    strict summary system system_fingerprint system_instruction tags temperature text thinking thought
    thought_signature thoughts timestamp tokens tool tool_call_id tool_calls tool_choice tool_config tool_result
    tool_use tool_use_id tools top_k top_logprobs top_p total_tokens type updated_at url usage usage_metadata user
    value values version video_metadata
    """.split()  # noqa: SIM905  (a list of so many names is hard to read)
)


def path_of(document: str, steps: Iterable[tuple[str | int, int]]) -> str:
    """Return the place of a value, such as `request_json.messages[3].<key 0>`.

    Args:
        document: the name of the document.
        steps: for each container from the outside in, the key or index of the item in it, and the item's position.

    Returns:
        The place. A key that is not the name of a field of the providers' APIs is shown by its position in its dict,
        counted from 0. A deep path is cut in the middle.
    """
    parts = [
        f"[{step}]" if isinstance(step, int) else f".{step}" if step in _FIELD_NAMES else f".<key {position}>"
        for step, position in steps
    ]
    if len(parts) > _MAX_STEPS:
        half = _MAX_STEPS // 2
        parts = [*parts[:half], "…", *parts[-half:]]
    return document + "".join(parts)
