//! The short forms of the scenarios that hurt a cluster on purpose (`talkhub-fault list`).

use std::sync::{PoisonError, RwLock};

/// A scenario that needs the machine for itself takes the write lock; all others take the read lock.
static MACHINE: RwLock<()> = RwLock::new(());

fn check(scenario: &str) {
    let _shared = MACHINE.read().unwrap_or_else(PoisonError::into_inner);
    tests::fault::check(scenario);
}

/// For a scenario in which the clients must keep up with what the servers send.
fn check_alone(scenario: &str) {
    let _alone = MACHINE.write().unwrap_or_else(PoisonError::into_inner);
    tests::fault::check(scenario);
}

#[test]
fn nothing_acknowledged_is_lost_when_any_daemon_is_killed() {
    check("kill");
}

#[test]
fn old_clients_with_their_habits_lose_nothing_and_repeat_nothing() {
    check("habits");
}

#[test]
fn nothing_is_lost_when_a_daemon_stands_still_for_a_while() {
    check("pause");
}

#[test]
fn replacing_every_daemon_under_load_loses_and_refuses_nothing() {
    check("rolling");
}

#[test]
fn nothing_is_lost_when_the_power_of_the_log_is_cut() {
    check("power");
}

#[test]
fn a_log_that_does_not_flush_is_noticed_by_a_power_cut() {
    check("power-mutant");
}

#[test]
fn a_full_disk_refuses_for_now_and_loses_nothing() {
    check("disk-full");
}

#[test]
fn a_disk_that_is_late_now_and_then_only_delays() {
    check("disk-slow");
}

#[test]
fn a_disk_that_fails_ends_the_owner_of_the_log_and_loses_nothing() {
    check("disk-error");
}

#[test]
fn damage_in_the_log_is_refused_in_one_line_and_nothing_is_changed() {
    check("log-bits");
}

#[test]
fn a_daemon_that_dies_at_any_system_call_loses_and_doubles_nothing() {
    check("syscalls");
}

#[test]
fn a_flood_of_wrong_logins_keeps_nobody_out() {
    check("flood");
}

#[test]
fn a_user_who_moves_from_gateway_to_gateway_misses_nothing() {
    check("hop");
}

#[test]
fn a_message_that_races_a_login_arrives() {
    check("login-race");
}

#[test]
fn what_is_sent_again_is_stored_once() {
    check("windows-resend");
}

#[test]
fn clients_that_never_read_harm_nobody() {
    check_alone("slow-readers");
}

#[test]
fn no_user_hears_or_reads_beyond_the_time_in_a_group() {
    check("members");
}

#[test]
fn without_a_hub_messages_arrive_within_a_second() {
    check("hub");
}

#[test]
fn a_split_between_daemons_loses_nothing_and_heals_in_time() {
    check("partitions");
}

#[test]
fn a_link_that_passes_on_one_direction_only_loses_nothing() {
    check("one-way");
}

#[test]
fn what_was_stored_and_not_answered_is_recognised_when_it_comes_again() {
    check("answers-cut");
}

#[test]
fn links_that_break_freeze_and_lag_lose_nothing() {
    check("links");
}

#[test]
fn lost_packets_lose_no_messages() {
    check("loss");
}

#[test]
fn clocks_that_jump_change_no_order_and_throw_nobody_out() {
    check("clock");
}

#[test]
fn mutants_of_the_servers_are_caught() {
    check("mutants");
}

#[test]
fn a_database_that_goes_away_keeps_nobody_from_talking() {
    check("mysql");
}

#[test]
fn a_cache_that_goes_away_or_comes_back_old_changes_nothing() {
    check("redis");
}

#[test]
fn what_a_db_proxy_owned_is_taken_over_and_nothing_is_lost() {
    check("takeover");
}

#[test]
fn brokers_that_die_lose_nothing_and_one_alone_acknowledges_nothing() {
    check("brokers");
}

#[test]
fn a_flood_is_refused_early_and_harms_nobody_else() {
    check_alone("overload");
}
