"""The threats to a proxy that holds a company's grant, and for each the tests that prove the rule against it.

The first number is the threat's; the table is complete when every threat has a rule and every test in it exists.
"""

import ast
from functools import cache
from pathlib import Path
from typing import Final

import pytest

TESTS: Final = Path(__file__).parent

# number: (threat, rule, the tests that prove it)
THREATS: Final = {
    1: (
        "A web page rebinds its own name to this computer (DNS rebinding).",
        "Only loopback names, our own address and access.allowed_hosts are served; else 421.",
        [
            "core/test_admission.py::test_any_other_name_is_not",
            "core/test_admission.py::test_a_request_has_exactly_one_host",
            "web/test_door.py::test_a_rebound_host_is_refused_on_every_route",
            "web/test_door_browser.py::test_a_rebound_name_gets_nothing_by_its_own_origin",
        ],
    ),
    2: (
        "A page of another web site sends requests through the user's browser.",
        "Foreign Origin, metadata or Referer is 403, for every method, for WebSocket, for other ports of this host.",
        [
            "core/test_admission.py::test_another_sites_page_is_refused",
            "web/test_door_browser.py::test_a_hostile_page_reads_nothing_and_reaches_nothing",
            "web/test_door_browser.py::test_a_page_of_another_port_of_this_host_fares_no_better",
            "web/test_door_browser.py::test_a_link_to_the_api_is_refused_and_one_to_the_status_page_is_not",
            "core/test_admission.py::test_a_page_of_another_site_is_known_by_referer_alone",
            "web/test_door_browser.py::test_it_fares_no_better_where_browsers_leave_out_fetch_metadata",
            "core/test_fields.py::test_content_that_a_browser_might_run_has_no_rights",
            "web/test_door_browser.py::test_what_somebody_has_uploaded_cannot_act",
        ],
    ),
    3: (
        "A page reads answers, because the API lets everybody read them.",
        "CORS fields of the upstream are dropped, preflights are answered here, answers are same-origin.",
        [
            "core/test_fields.py::test_a_field_of_the_upstreams_connection_or_origin_does_not_come_back",
            "core/test_admission.py::test_a_preflight_is_refused_and_never_forwarded",
            "web/test_door.py::test_an_allowed_origin_reads_answers_and_errors_by_our_own_cors",
        ],
    ),
    4: (
        "Browsers' own guards of local networks are incomplete.",
        "Nothing counts on them: the browser tests switch them off.",
        ["web/test_door_browser.py::test_a_hostile_page_reads_nothing_and_reaches_nothing"],
    ),
    5: (
        "The proxy listens beyond this computer, and everybody there uses the grant.",
        "Beyond loopback it needs access.expose and a rule that says who may call.",
        [
            "web/test_listeners.py::test_beyond_loopback_the_two_lines_to_add_are_told",
            "web/test_listeners.py::test_a_passed_socket_beyond_loopback_needs_leave_too",
            "web/test_tls.py::test_a_client_certificate_is_asked_for_by_its_authority",
            "web/test_tls.py::test_no_session_outlives_the_authority_that_let_it_in",
        ],
    ),
    6: (
        "Other users and programs of this computer call it, or take its place.",
        "Unix sockets are private and safely replaced, localhost is taken on both families or not at all.",
        [
            "web/test_listeners.py::test_a_unix_socket_is_private_and_knows_its_peer",
            "web/test_listeners.py::test_a_unix_peer_that_the_system_does_not_tell_of_is_refused_where_a_rule_asks_who_it_is",
            "web/test_listeners.py::test_a_file_in_the_place_of_the_socket_is_not_removed",
            "web/test_listeners.py::test_a_folder_that_everybody_may_write_to_is_refused",
            "config/test_load.py::test_a_file_that_every_user_can_replace_is_refused",
            "stores/test_file.py::test_a_sealed_store_takes_no_plain_grant",
            "web/test_listeners.py::test_localhost_is_refused_when_another_program_has_one_of_them",
        ],
    ),
    7: (
        "A neighbouring program is made to send requests to localhost (SSRF).",
        "access.require_header and client keys, looked up by digest, slow to guess and never forwarded.",
        [
            "core/test_admission.py::test_a_required_field_must_be_there",
            "core/test_admission.py::test_without_a_valid_key_nothing_passes",
            "core/test_admission.py::test_each_key_is_told_of_before_anything_else_shows_whether_it_is_right",
            "web/test_door.py::test_whoever_guesses_keys_is_slowed_down_and_nobody_else",
            "web/test_door.py::test_keys_let_named_callers_in_and_stay_here",
            "web/test_door.py::test_a_key_that_is_taken_out_of_the_file_opens_nothing_any_more",
        ],
    ),
    8: (
        "Containers on the same network call it, or say that they are somebody else.",
        "CIDRs are for the TCP peer; X-Forwarded-For counts for nothing.",
        [
            "core/test_admission.py::test_a_peer_outside_the_networks_may_not_call",
            "http/test_request_fields.py::test_claims_about_the_caller_are_dropped",
            "web/test_exhaustion.py::test_one_address_beyond_loopback_gets_half_of_the_connections",
        ],
    ),
    9: (
        "Somebody else runs setup, for an account of theirs.",
        "Setup is open only while needed, and from elsewhere with a one-time key only.",
        [
            "web/test_setup.py::test_from_another_computer_setup_needs_a_key_which_works_once",
            "web/test_setup.py::test_a_key_that_was_used_stays_used_after_a_restart",
            "web/test_setup.py::test_setup_that_is_done_says_how_to_open_it_again",
            "web/test_setup.py::test_a_new_attempt_ends_the_older_one",
            "web/test_setup.py::test_all_other_keys_end_with_the_success_of_one",
            "web/test_setup.py::test_keys_and_attempts_end_when_another_process_is_authorized",
            "cli/test_setup.py::test_the_browser_gets_the_link_by_a_private_file_that_is_gone_afterwards",
        ],
    ),
    10: (
        "A page slips its own authorization code to the user's browser (login CSRF).",
        "The answer needs the state and the cookie of the browser that began, and PKCE.",
        [
            "core/test_authorization.py::test_an_answer_from_another_browser_is_refused",
            "web/test_setup.py::test_an_answer_without_the_cookie_is_refused_and_spends_no_code",
            "web/test_setup.py::test_nobody_ends_an_attempt_with_a_made_up_answer",
        ],
    ),
    11: (
        "A page frames ours and steals a click.",
        "No page of ours can be framed, nor does it start anything in a frame or by a prefetch.",
        [
            "web/test_pages.py::test_every_page_is_kept_to_itself",
            "web/test_setup_browser.py::test_a_page_of_another_program_cannot_start_setup_in_a_frame_or_by_a_prefetch",
        ],
    ),
    12: (
        "A redirect of ours leads where somebody else wants.",
        "Setup leads to fixed places, and no Location of the upstream becomes another host.",
        [
            "core/test_fields.py::test_a_location_on_the_upstreams_origin_comes_back_on_the_callers",
            "core/test_fields.py::test_a_location_for_a_caller_that_named_no_host_is_a_path",
            "web/test_setup.py::test_a_browser_on_another_origin_goes_to_that_of_the_redirect_uri_first",
        ],
    ),
    13: (
        "The token goes to another host, or to a path outside /api/.",
        "The origin is constant; a target goes byte for byte, and only when no reading of it leaves /api/.",
        [
            "core/test_target.py::test_a_path_that_may_leave_the_api_is_forbidden",
            "core/test_target.py::test_no_accepted_path_leaves_the_api_however_often_it_is_decoded",
            "core/test_target.py::test_the_token_endpoint_is_forbidden_in_every_spelling",
            "http/test_request_target.py::test_an_absolute_form_of_another_authority_is_refused",
        ],
    ),
    14: (
        "Tokens, keys and codes end up in logs.",
        "Secrets do not print, queries are not logged, nothing leaves its line; no core and no child gets any.",
        [
            "core/test_secret.py::test_no_way_to_text_shows_it",
            "test_log.py::test_control_characters_are_escaped",
            "test_secrets_never_leak.py::test_nothing_leaks_from_bad_requests",
            "test_secrets_of_a_process.py::test_nothing_that_anybody_sees_holds_a_secret",
            "test_secrets_of_a_process.py::test_the_browser_that_setup_opens_inherits_no_secret",
            "test_environment.py::test_nothing_else_starts_programs",
            "web/test_notify.py::test_a_command_gets_the_message_and_no_shell_and_no_secret",
            "test_trust.py::test_the_keys_of_tls_are_not_written_down",
            "test_secrets_of_a_process.py::test_neither_a_core_nor_other_processes_get_at_the_memory",
            "web/test_door.py::test_the_process_leaves_no_core",
        ],
    ),
    15: (
        "TRACE echoes the token, CONNECT opens a tunnel.",
        "Both are 405.",
        [
            "core/test_admission.py::test_a_method_that_would_echo_or_tunnel_is_never_allowed",
            "http/test_request_target.py::test_trace_echoes_nothing",
            "http/test_request_target.py::test_connect_opens_no_tunnel",
        ],
    ),
    16: (
        "Fields are smuggled: Connection removes ours, look-alike names stand in for others, framing is read two ways.",
        "The caller's set is cleaned first, ours is added last; what two readers could read differently is refused.",
        [
            "core/test_fields.py::test_connection_cannot_remove_what_we_add",
            "grant/test_stored_grant.py::test_a_value_that_no_token_response_brings_is_damage",
            "core/test_fields.py::test_a_field_that_is_ours_or_of_this_connection_or_a_claim_is_not_sent",
            "core/test_fields.py::test_a_length_that_two_readers_could_read_differently_is_refused",
            "http/test_hostile.py::test_each_hostile_request_is_refused_cut_off_or_forwarded_as_it_was_meant",
        ],
    ),
    17: (
        "Cookies of other programs on localhost go to Krebit, and Krebit's fields change localhost.",
        "Cookies stay here in both directions unless told; what is about an origin does not come back.",
        [
            "core/test_fields.py::test_cookies_are_forwarded_when_told_as_they_came",
            "http/test_request_fields.py::test_cookies_are_dropped",
            "http/test_response.py::test_cookies_are_dropped",
        ],
    ),
    18: (
        "A tool can do more than it needs to.",
        "read_only, allow rules by what a path means, a rate for each caller; the rules are learned from traffic.",
        [
            "core/test_admission.py::test_a_request_beyond_them_is_refused",
            "core/test_admission.py::test_no_field_changes_the_method_or_the_path_while_they_are_limited",
            "web/test_door.py::test_read_only_refuses_what_writes",
            "web/test_observer.py::test_what_callers_do_is_observed_and_nothing_is_refused_meanwhile",
            "web/test_door.py::test_a_caller_keeps_its_rate",
        ],
    ),
    19: (
        "Error pages show the inside.",
        "They are constant text, escaped, with the id by which the log knows more.",
        [
            "core/test_admission.py::test_a_refused_name_is_shown_only_when_it_is_one",
            "web/test_pages.py::test_an_error_says_what_happened_what_to_do_and_how_the_log_calls_it",
            "test_secrets_never_leak.py::test_nothing_leaks_when_the_upstream_fails",
        ],
    ),
    20: (
        "Our own routes tell others about us.",
        "They hold no token, and the Host and Origin rules are theirs too.",
        [
            "web/test_status.py::test_no_page_shows_a_token_or_the_client_secret",
            "web/test_pages.py::test_what_is_told_to_programs_is_kept_to_itself_too",
            "web/test_door.py::test_what_is_refused_is_told_and_never_reaches_the_upstream",
        ],
    ),
    21: (
        "Slow or greedy callers use up connections, memory or descriptors.",
        "Idle and slow ones make room, TLS handshakes too; one place beyond loopback gets a share.",
        [
            "web/test_exhaustion.py::test_slow_heads_by_the_hundred_do_not_keep_others_out",
            "web/test_exhaustion.py::test_handshakes_that_never_come_by_the_hundred_do_not_keep_others_out",
            "web/test_exhaustion.py::test_one_address_beyond_loopback_gets_half_of_the_connections",
            "web/test_exhaustion.py::test_the_share_of_one_address_counts_its_handshakes",
            "web/test_exhaustion.py::test_memory_is_bounded_however_many_callers_are_slow",
            "web/test_exhaustion.py::test_a_process_has_descriptors_for_all_its_connections_or_says_so",
            "core/test_access.py::test_one_place_is_an_ipv4_address_or_an_ipv6_network",
            "http/test_limits.py::test_many_slow_callers_do_not_keep_others_out",
        ],
    ),
}

_HEADS: Final = "web/test_bounds.py::test_large_heads_leave_nothing_in_a_cache"
_TURN: Final = "web/test_bounds.py::test_one_turn_parses_so_much_and_leaves_the_rest_for_later"
_CALLS: Final = "web/test_bounds.py::test_one_read_makes_no_more_calls_than_may_wait"
_UNTAKEN: Final = "web/test_bounds.py::test_memory_is_bounded_when_callers_pipeline_and_take_no_answer"

# What a stranger can feed: (bound in bytes, bound in time for one turn of the event loop, the tests that prove it).
BOUNDS: Final = {
    "core.fields: names of heads": ("256 keys of 512 bytes", "a look-up", [_HEADS]),
    "core.fields: options of Connection": ("256 keys of 64 bytes", "a look-up", [_HEADS]),
    "core.fields: fields that are returned": ("256 keys of 64 names", "a look-up", [_HEADS]),
    "core.admission: names of loopback": ("256 keys of 262 bytes", "a look-up", [_HEADS]),
    "core.access: peers": (
        "1024 keys, each an address",
        "a look-up",
        ["core/test_access.py::test_one_place_is_an_ipv4_address_or_an_ipv6_network"],
    ),
    "core.replay: paths with a breaker, targets that were accepted": (
        "256 each, of 512 bytes",
        "256 of them",
        [
            "core/test_replay.py::test_memory_of_paths_is_bounded",
            "core/test_replay.py::test_long_paths_are_remembered_too_and_cost_little",
        ],
    ),
    "core.replay: content kept for a replay": (
        "replay.max_body for a request, replay.max_total in all",
        "one piece",
        ["core/test_replay.py::test_the_allowance_is_shared_and_given_back"],
    ),
    "core.target: readings of a path": (
        "16 of limits.header_bytes",
        "16 of them",
        ["core/test_target.py::test_a_path_encoded_over_and_over_is_forbidden"],
    ),
    "web.request_reader: a head, a chunk extension, trailers": (
        "limits.header_bytes and a slice of 16 kB",
        "64 kB parsed",
        [_TURN],
    ),
    "web.request_reader: requests that wait": (
        "32, and those in 1 kB",
        "32, and those in 1 kB",
        [_CALLS, "web/test_bounds.py::test_many_little_reads_make_no_more_calls_than_may_wait_and_one_read_more"],
    ),
    "web.request_reader: bytes that wait to be parsed": ("one read, 256 kB", "64 kB parsed", [_TURN, _UNTAKEN]),
    "web.request_reader: chunks": (
        "256 kB and a read, in pieces of 4 kB or more",
        "64 kB parsed",
        [_TURN, "web/test_bounds.py::test_others_are_answered_while_a_caller_sends_300_000_chunks_of_one_byte"],
    ),
    "web.request_reader: offers of an upgrade": (
        "as requests that wait",
        "as requests that wait",
        ["web/test_bounds.py::test_upgrades_that_are_declined_do_not_nest"],
    ),
    "web.call: content that waits to be sent": (
        "256 kB and a read, in pieces of 4 kB or more",
        "one read",
        ["web/test_bounds.py::test_content_in_single_bytes_costs_no_more_than_other_content"],
    ),
    "web.connection: answers that are not taken": (
        "64 kB and one answer of 64 kB",
        "one answer",
        [_UNTAKEN, "web/test_connection.py::test_a_caller_that_takes_nothing_is_ended"],
    ),
    "web.connection: content that is dropped after an early answer": (
        "0",
        "one read",
        [
            "http/test_early_answers.py::test_who_sends_everything_first_gets_the_early_answer",
            "web/test_call.py::test_content_without_a_reader_is_dropped",
        ],
    ),
    "web.seats: connections": (
        "limits.connections, and as many that are over",
        "all of them",
        ["web/test_exhaustion.py::test_memory_is_bounded_however_many_callers_are_slow"],
    ),
}


@cache
def names_in(file: str) -> frozenset[str]:
    """The functions that a test file defines."""
    tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def test_the_table_has_no_gap() -> None:
    assert list(THREATS) == list(range(1, len(THREATS) + 1))


@pytest.mark.parametrize("number", THREATS)
def test_each_threat_has_a_rule_and_tests_that_exist(number: int) -> None:
    threat, rule, proofs = THREATS[number]
    assert threat
    assert rule
    assert proofs
    assert [proof for proof in proofs if proof.partition("::")[2] not in names_in(proof.partition("::")[0])] == []


@pytest.mark.parametrize("name", BOUNDS)
def test_each_thing_that_a_stranger_can_feed_has_bounds_and_tests_that_exist(name: str) -> None:
    size, time, proofs = BOUNDS[name]
    assert size
    assert time
    assert proofs
    assert [proof for proof in proofs if proof.partition("::")[2] not in names_in(proof.partition("::")[0])] == []
