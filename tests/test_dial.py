"""What a forward proxy is asked. `upstream/test_connect.py` and `test_post.py` use it, and dial, over real sockets."""

from base64 import b64encode
from urllib.parse import urlsplit

from krebit_proxy import USER_AGENT
from krebit_proxy.dial import proxy_fields, tunnel_refusal, tunnel_request


def test_a_tunnel_is_asked_for_by_host_and_port() -> None:
    asked = tunnel_request("[::1]:443", urlsplit("http://proxy.example:3128")).decode()

    assert asked == f"CONNECT [::1]:443 HTTP/1.1\r\nHost: [::1]:443\r\nUser-Agent: {USER_AGENT}\r\n\r\n"


def test_the_login_in_the_proxys_url_is_decoded_before_it_is_sent() -> None:
    fields = proxy_fields(urlsplit("http://us%40er:p%3Ass%C3%A9@proxy.example"))

    assert fields["Proxy-Authorization"] == "Basic " + b64encode("us@er:p:ssé".encode()).decode()


def test_a_user_without_a_password_is_a_login() -> None:
    fields = proxy_fields(urlsplit("http://user@proxy.example"))

    assert fields["Proxy-Authorization"] == "Basic " + b64encode(b"user:").decode()


def test_a_login_that_we_do_not_speak_is_told_of_with_what_helps() -> None:
    assert tunnel_refusal(407, "Negotiate, NTLM") == (
        "the forward proxy requires another login than Basic, such as Negotiate or NTLM, but krebit-proxy supports "
        "only Basic; run a helper such as px or cntlm, and set upstream.proxy to it"
    )
    assert tunnel_refusal(407, 'NTLM, Basic realm="x"').startswith("the forward proxy requires a login (status 407)")
    assert tunnel_refusal(403, "") == "the forward proxy refused the tunnel (status 403)"
