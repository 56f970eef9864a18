//! Which gateways the login endpoint gives out: those that can log a user in, one for each name.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tests::{Ends, Manner, Options, PATIENCE, Site, SiteOptions};

/// How often it is asked: as often as in the try that found one answer in three to be wrong.
const ASKS: usize = 50;

fn site(gateways: u16, settings: Vec<(&'static str, &'static str, &'static str, String)>) -> Site {
    let cluster = Options { gateways, users: 4, group: 0, ..Options::default() };
    Site::prepare(&SiteOptions { cluster, wires: true, settings, ..SiteOptions::default() })
}

/// How often each answer comes.
fn asked(site: &Site) -> BTreeMap<Result<u16, u64>, usize> {
    let mut answers = BTreeMap::new();
    for _ask in 0..ASKS {
        *answers.entry(site.ask_login()).or_default() += 1;
    }
    answers
}

fn wait_until(what: &str, holds: impl FnMut() -> bool) {
    tests::wait_until(what, PATIENCE, holds);
}

fn is_ready(site: &Site, gateway: &str) -> bool {
    site.page(gateway, "/readyz").is_some_and(|page| page.starts_with("HTTP/1.1 200"))
}

#[test]
fn a_gateway_that_cannot_log_anybody_in_is_never_given() {
    let mut site = site(3, vec![("msg_server-3", "", "db_proxies", "[\"127.0.0.1:1\"]".into())]);
    for name in site.names() {
        site.launch(&name);
    }
    for name in site.names().iter().filter(|name| *name != "msg_server-3") {
        site.wait_ready(name);
    }
    wait_until("all three report", || {
        site.metric("login_server", "talkhub_login_server_gateways") == 3
    });
    let answers = asked(&site);
    assert_eq!(answers.len(), 2, "the first and the second alone: {answers:?}");
    assert!(answers.keys().all(Result::is_ok), "{answers:?}");
    let page = site.page("msg_server-3", "/readyz").expect("it lives");
    assert!(page.contains("waiting for: db_proxy"), "{page}");

    // Cut off from storage: not given from about a second on, and given again when it is back.
    let to_storage = |gateway: &str| Ends::new(gateway, "db_proxy");
    let refused = |wanted: u64| {
        wait_until("the login endpoint has heard", || {
            site.metric("login_server", "talkhub_login_server_gateways_not_ready") == wanted
        });
    };
    let cut = Instant::now();
    site.wires().set(&to_storage("msg_server-2"), Manner::CUT);
    site.wires().reset(&to_storage("msg_server-2"));
    wait_until("the gateway notices", || !is_ready(&site, "msg_server-2"));
    let noticed = cut.elapsed();
    println!("not ready {noticed:?} after the cut");
    assert!(noticed >= Duration::from_millis(900), "a short gap is none: {noticed:?}");
    refused(2);
    let answers = asked(&site);
    assert_eq!(answers.len(), 1, "only the first is left: {answers:?}");

    site.wires().set(&to_storage("msg_server-1"), Manner::CUT);
    site.wires().reset(&to_storage("msg_server-1"));
    refused(3);
    assert_eq!(asked(&site), BTreeMap::from([(Err(1), ASKS)]), "no address, but code 1");

    site.wires().heal();
    refused(1);
    assert_eq!(asked(&site).len(), 2, "both are given again");
}

#[test]
fn a_restarted_login_server_waits_for_the_first_report_and_a_cold_gateway_is_given_at_once() {
    let mut site = site(1, Vec::new());
    for name in site.names() {
        site.launch(&name);
    }
    site.wait_ready("msg_server-1");
    site.kill("login_server");
    site.launch("login_server");
    site.wait_ready("login_server");
    // It has no report yet, or only just: a client is not told that there is no gateway.
    assert!(site.ask_login().is_ok());

    site.kill("msg_server-1");
    wait_until("the gateway is missed", || site.ask_login() == Err(1));
    let began = Instant::now();
    site.launch("msg_server-1");
    wait_until("it is given", || site.ask_login().is_ok());
    println!("given {:?} after its start", began.elapsed());
    assert!(is_ready(&site, "msg_server-1"), "not before it is ready");
}

#[test]
fn of_two_gateways_under_one_name_the_second_is_refused_with_a_line_on_both_sides() {
    let mut site = site(2, vec![("msg_server", "cluster", "name", "\"gate\"".into())]);
    for name in site.names().iter().filter(|name| *name != "msg_server-2") {
        site.launch(name);
    }
    site.wait_ready("msg_server-1");
    let first = site.ask_login().expect("the first is given");
    site.launch("msg_server-2");
    wait_until("the second is told", || {
        site.page("msg_server-2", "/readyz").is_some_and(|page| page.contains("cluster.name"))
    });
    assert_eq!(asked(&site), BTreeMap::from([(Ok(first), ASKS)]), "the first alone");
    let log = site.log();
    let lines = |level: &str| {
        log.lines().filter(|line| line.contains(level) && line.contains("cluster.name")).count()
    };
    assert_eq!((lines("ERROR"), lines("WARN")), (1, 1), "one line on each side:\n{log}");
    assert!(is_ready(&site, "msg_server-1"), "the first goes on");

    // A restart of the first is not taken for a second one.
    site.kill("msg_server-1");
    wait_until("the second has the name", || is_ready(&site, "msg_server-2"));
    assert_ne!(site.ask_login(), Ok(first));
}
