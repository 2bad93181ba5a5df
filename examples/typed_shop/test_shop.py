"""The shop's tests: its messages follow the plan, and the generated module is up to date."""

import subprocess
import sys
from pathlib import Path

from fastapi.testclient import TestClient
from plan import OrderCompleted, OrderCompletedProduct

from shop import shop

HERE = Path(__file__).parent


def test_an_order(segment):
    with TestClient(shop(segment.client), cookies={"ajs_anonymous_id": "visitor-7"}) as http:
        assert http.post("/orders/o-1").status_code == 200
        assert http.get("/articles/shoe-42").status_code == 200
        assert http.post("/upgrade").status_code == 200
    shoes = OrderCompletedProduct(sku="shoe-42", price=30.5)
    segment.assert_tracked(OrderCompleted(order_id="o-1", total=30.5, products=[shoes]))
    segment.assert_identified(traits={"plan": "pro"})


def test_the_generated_module_is_up_to_date():
    command = [sys.executable, "-m", "segment_async.cli", "plan", "generate", "plan.json", "-o", "plan.py", "--check"]
    subprocess.run(command, cwd=HERE, check=True)
