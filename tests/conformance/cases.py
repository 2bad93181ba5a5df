"""All cases in their groups, in the order in which a table shows them."""

from .cases_of_answers import ACCEPTED, REDIRECTED, REFUSED_FOR_CONTENT, STATUSES
from .cases_of_requests import ENDPOINT, ENVELOPE, LIMITS, MESSAGES, REFUSED
from .cases_of_retries import COUNTING, NO_ANSWER, RETRY_AFTER

GROUPS = {
    "address, headers, envelope": [*ENDPOINT, *ENVELOPE],
    "messages, field by field": MESSAGES,
    "what Segment would silently drop is refused": REFUSED,
    "Segment's limits on messages, batches and ids": LIMITS,
    "2xx that is a yes, and 2xx that is none": ACCEPTED,
    "redirects are not followed": REDIRECTED,
    "400 and 413: split, so that the good arrive": REFUSED_FOR_CONTENT,
    "every other status: final, or tried again": STATUSES,
    "no usable answer: refused, reset, silent, garbage, TLS": NO_ANSWER,
    "`Retry-After` and the pause it asks for": RETRY_AFTER,
    "back-off, `X-Retry-Count`, `sentAt`, giving up": COUNTING,
}
CASES = [case for cases in GROUPS.values() for case in cases]
