"""All cases, in the order in which a table shows them."""

from .cases_of_answers import ANSWER_CASES
from .cases_of_requests import REQUEST_CASES
from .cases_of_retries import RETRY_CASES

CASES = [*REQUEST_CASES, *ANSWER_CASES, *RETRY_CASES]
