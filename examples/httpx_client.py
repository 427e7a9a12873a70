"""An httpx client over a pipeline, against a local server that answers 503 twice and then well."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx

from holdfast import Backoff, CircuitBreakers, Pipeline, Retry, RetryBudget, Timeout, httpx_transport


class Shop(BaseHTTPRequestHandler):
    """A server that needs to be asked three times."""

    asked = 0

    def do_GET(self) -> None:
        """Answer 503 twice, then 200."""
        Shop.asked += 1
        body = b"9.99"
        self.send_response(200 if Shop.asked > 2 else 503)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # its name in the base class
        """Say nothing."""


def main() -> None:
    """Ask once; the transport asks three times."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Shop)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    policy = Pipeline(
        Timeout(10),
        Retry(attempts=4, wait=Backoff(base=0.01), budget=RetryBudget("shop")),
        CircuitBreakers("shop"),
        Timeout(2),
    )
    with httpx.Client(transport=httpx_transport(policy)) as client:
        response = client.get(f"http://127.0.0.1:{server.server_port}/price")
    print(f"{response.status_code} {response.text}, after {Shop.asked} requests")
    server.shutdown()
    server.server_close()


if __name__ == "__main__":
    main()
