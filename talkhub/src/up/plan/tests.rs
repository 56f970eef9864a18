//! What is started, for what was asked.

use daemon::config::parse;
use daemon::{Secret, Settings};

use super::*;

fn wanted() -> Wanted {
    Wanted {
        ports: Ports::from_base(8000).unwrap(),
        gateways: 2,
        routes: 2,
        advertise: None,
        allow_plain: false,
        allow_private_webhooks: false,
        hooks: Vec::new(),
        tls: None,
        key_file: PathBuf::from("/d/\"quoted\"/cluster.key"),
        text_key_file: None,
        db_proxies: 1,
        db_folder: PathBuf::from("/d/db"),
        mysql: Vec::new(),
        redis: None,
        kafka: None,
        log_level: "warn".to_owned(),
        log_format: "text".to_owned(),
    }
}

fn tls() -> TlsFiles {
    TlsFiles { cert: PathBuf::from("/c.pem"), key: PathBuf::from("/k.pem") }
}

fn parsed<S: Settings>(plan: &Plan, name: &str) -> S {
    let daemon = plan.daemons.iter().find(|daemon| daemon.name == name).unwrap();
    parse(&daemon.conf).unwrap_or_else(|error| panic!("{name}: {error}\n{}", daemon.conf))
}

fn assert_all_parse(plan: &Plan) {
    for daemon in &plan.daemons {
        match daemon.kind {
            DaemonKind::DbProxy => drop(parsed::<db_proxy::Config>(plan, &daemon.name)),
            DaemonKind::RouteServer => drop(parsed::<route_server::Config>(plan, &daemon.name)),
            DaemonKind::LoginServer => drop(parsed::<login_server::Config>(plan, &daemon.name)),
            DaemonKind::Gateway => drop(parsed::<msg_server::Config>(plan, &daemon.name)),
            DaemonKind::ApiServer => drop(parsed::<api_server::Config>(plan, &daemon.name)),
        }
    }
}

#[test]
fn databases_are_named_in_the_settings_of_db_proxy_alone() {
    let url = "mysql://talkhub:a\"b@db.example/talkhub";
    let asked = Wanted {
        mysql: vec![url.to_owned()],
        redis: Some("redis://cache.example".to_owned()),
        ..wanted()
    };
    let plan = asked.plan();
    assert_all_parse(&plan);
    let db_proxy: db_proxy::Config = parsed(&plan, "db_proxy");
    assert_eq!(db_proxy.store.mysql.iter().map(Secret::expose).collect::<Vec<_>>(), [url]);
    assert_eq!(db_proxy.cache.redis.as_ref().map(Secret::expose), Some("redis://cache.example"));
}

#[test]
fn db_proxies_that_share_a_log_differ_in_name_folder_and_ports() {
    let kafka =
        KafkaLog { bootstrap: "kafka.example:9092".to_owned(), partitions: 12, allow_unsafe: true };
    let mysql = vec!["mysql://talkhub:secret@db.example/talkhub".to_owned()];
    let plan = Wanted { db_proxies: 3, kafka: Some(kafka), mysql, ..wanted() }.plan();
    assert_all_parse(&plan);
    let names: Vec<_> =
        plan.of_kinds(&[DaemonKind::DbProxy]).map(|daemon| daemon.name.as_str()).collect();
    assert_eq!(names, ["db_proxy", "db_proxy-2", "db_proxy-3"]);
    let settings: Vec<db_proxy::Config> = names.iter().map(|name| parsed(&plan, name)).collect();
    for settings in &settings {
        assert_eq!(settings.kafka.bootstrap, "kafka.example:9092");
        assert_eq!((settings.kafka.topic.as_str(), settings.kafka.partitions), (TOPIC, 12));
        assert!(settings.kafka.allow_unsafe_topic);
    }
    let folders: Vec<_> = settings.iter().map(|one| one.data_dir.to_str().unwrap()).collect();
    assert_eq!(folders, ["/d/db", "/d/db-2", "/d/db-3"]);
    let gateway: msg_server::Config = parsed(&plan, "msg_server-1");
    assert_eq!(gateway.db_proxies, ["127.0.0.1:8120", "127.0.0.1:8121", "127.0.0.1:8122"]);
}

#[test]
fn the_daemons_take_their_settings_and_find_each_other() {
    let plan = wanted().plan();
    assert_all_parse(&plan);
    let gateway: msg_server::Config = parsed(&plan, "msg_server-2");
    assert_eq!(gateway.listen, Some("127.0.0.1:8001".parse().unwrap()));
    let db: db_proxy::Config = parsed(&plan, "db_proxy");
    assert_eq!(gateway.db_proxies, [db.link_addr.to_string()]);
    let login: login_server::Config = parsed(&plan, "login_server");
    assert_eq!(gateway.login_servers, [login.link_addr.to_string()]);
    assert_eq!(gateway.route_servers, ["127.0.0.1:8100", "127.0.0.1:8101"]);
    assert_eq!(db.route_servers, gateway.route_servers);
    assert_eq!(gateway.cluster.key_file, Some(wanted().key_file));
    assert_eq!((plan.login.as_str(), plan.login_tls.as_deref()), ("http://127.0.0.1:8080", None));
    assert_eq!(plan.gateways, ["127.0.0.1:8000", "127.0.0.1:8001"]);
    let api: api_server::Config = parsed(&plan, "api_server");
    assert_eq!(api.db_proxies, gateway.db_proxies);
    assert_eq!(plan.api, format!("http://{}", api.http_addr.unwrap()));
}

#[test]
fn every_daemon_is_told_the_key_of_texts_if_there_is_one() {
    let file = PathBuf::from("/d/text.key");
    let plan = Wanted { text_key_file: Some(file.clone()), ..wanted() }.plan();
    assert_all_parse(&plan);
    for daemon in &plan.daemons {
        let conf: Table = daemon.conf.parse().unwrap();
        assert_eq!(conf["cluster"]["text_key_file"].as_str(), file.to_str(), "{}", daemon.name);
    }
}

#[test]
fn with_a_certificate_clients_elsewhere_get_tls_and_the_plain_ports_stay_here() {
    let asked = Wanted { advertise: Some("chat.example".to_owned()), tls: Some(tls()), ..wanted() };
    let plan = asked.plan();
    assert_all_parse(&plan);
    let gateway: msg_server::Config = parsed(&plan, "msg_server-1");
    assert!(gateway.listen.unwrap().ip().is_loopback());
    assert_eq!(gateway.tls.unwrap().listen, "0.0.0.0:8030".parse().unwrap());
    assert_eq!(gateway.advertise_host.as_deref(), Some("chat.example"));
    assert_eq!(plan.login_tls.as_deref(), Some("https://chat.example:8081"));
    assert_eq!(plan.gateways_tls, ["chat.example:8030", "chat.example:8031"]);
    let api: api_server::Config = parsed(&plan, "api_server");
    assert!(api.http_addr.unwrap().ip().is_loopback());
    assert_eq!(api.tls.unwrap().listen, "0.0.0.0:8083".parse().unwrap());
    assert_eq!(plan.api_tls.as_deref(), Some("https://chat.example:8083"));
}

#[test]
fn plain_ports_are_open_to_others_only_if_that_was_said() {
    let open = Wanted { advertise: Some("2001:db8::1".to_owned()), allow_plain: true, ..wanted() };
    let plan = open.plan();
    assert_all_parse(&plan);
    let login: login_server::Config = parsed(&plan, "login_server");
    assert_eq!(login.http_addr, Some("[::]:8080".parse().unwrap()));
    assert_eq!(plan.login, "http://[2001:db8::1]:8080");
    let links = plan.listens().filter(|(_addr, what)| what.starts_with("links"));
    assert!(links.into_iter().all(|(addr, _what)| addr.ip().is_loopback()));
}

#[test]
fn tls_without_other_machines_stays_on_this_one() {
    let plan = Wanted { tls: Some(tls()), ..wanted() }.plan();
    assert_all_parse(&plan);
    assert!(plan.listens().all(|(addr, _what)| addr.ip().is_loopback()));
    assert_eq!(plan.gateways_tls, ["127.0.0.1:8030", "127.0.0.1:8031"]);
}

#[test]
fn every_daemon_has_its_name_its_page_and_the_same_key_limit_and_log() {
    let asked = Wanted { log_level: "debug".to_owned(), log_format: "json".to_owned(), ..wanted() };
    let plan = asked.plan();
    let names: Vec<_> = plan.daemons.iter().map(|daemon| daemon.name.as_str()).collect();
    let routes_and_db = ["route_server-1", "route_server-2", "db_proxy"];
    let gateways = ["msg_server-1", "msg_server-2"];
    let all = [&["login_server"][..], &routes_and_db, &gateways, &["api_server"]].concat();
    assert_eq!(names, all);
    for daemon in &plan.daemons {
        let conf: Table = daemon.conf.parse().unwrap();
        let (process, cluster) = (&conf["process"], &conf["cluster"]);
        assert_eq!(process["metrics_addr"].as_str(), Some(&*daemon.metrics.to_string()));
        assert_eq!(process["log_level"].as_str(), Some("debug"));
        assert_eq!(process["log_format"].as_str(), Some("json"));
        assert_eq!(process["drain_limit_s"].as_integer(), Some(5));
        assert_eq!(cluster["name"].as_str(), Some(daemon.name.as_str()));
        assert_eq!(cluster["key_file"].as_str(), wanted().key_file.to_str());
        assert!(daemon.conf.starts_with("# Written by `talkhub up`"), "{}", daemon.conf);
    }
    let what: Vec<_> = plan.listens().map(|(addr, what)| (addr.port(), what)).collect();
    assert!(what.contains(&(8080, "clients of login_server".to_owned())), "{what:?}");
    assert!(what.contains(&(8152, "metrics of route_server-1".to_owned())), "{what:?}");
    assert_eq!(what.len(), 2 * plan.daemons.len() + 1, "login_server has one more");
}

#[test]
fn daemons_start_before_those_that_dial_them_and_stop_after_them() {
    let all = |order: [&[DaemonKind]; 3]| order.concat();
    let mut stop = all(DaemonKind::STOP_ORDER);
    assert_eq!(stop.len(), 5);
    let start = all(DaemonKind::START_ORDER);
    let place = |kind| start.iter().position(|one| *one == kind);
    // db_proxy dials route_servers, and a gateway all the others but api_server, which dials db_proxy.
    assert!(place(DaemonKind::RouteServer) < place(DaemonKind::DbProxy));
    assert!(start.ends_with(&[DaemonKind::Gateway, DaemonKind::ApiServer]));
    let first = [DaemonKind::Gateway, DaemonKind::ApiServer, DaemonKind::DbProxy];
    assert!(stop.starts_with(&first));
    stop.retain(|kind| !start.contains(kind));
    assert!(stop.is_empty());
}

#[test]
fn where_clients_are_listened_for_follows_from_what_they_are_told() {
    let listens = |advertise: Option<&str>, allow_plain| {
        let advertise = advertise.map(str::to_owned);
        let plan = Wanted { advertise, allow_plain, tls: Some(tls()), ..wanted() }.plan();
        let gateway: msg_server::Config = parsed(&plan, "msg_server-1");
        let (plain, tls) = (gateway.listen.unwrap().ip(), gateway.tls.unwrap().listen.ip());
        (plain.to_string(), tls.to_string(), plan.gateways[0].clone())
    };
    let here = "127.0.0.1";
    for (advertise, allow_plain, plain, tls, told) in [
        (None, false, here, here, "127.0.0.1:8000"),
        (None, true, here, here, "127.0.0.1:8000"),
        (Some("127.0.0.2"), false, "127.0.0.2", "127.0.0.2", "127.0.0.2:8000"),
        (Some("::1"), false, "::1", "::1", "[::1]:8000"),
        (Some("192.0.2.1"), false, here, "0.0.0.0", "192.0.2.1:8000"),
        (Some("192.0.2.1"), true, "0.0.0.0", "0.0.0.0", "192.0.2.1:8000"),
        (Some("2001:db8::1"), false, here, "::", "[2001:db8::1]:8000"),
        (Some("chat.example"), true, "0.0.0.0", "0.0.0.0", "chat.example:8000"),
    ] {
        let expected = (plain.to_owned(), tls.to_owned(), told.to_owned());
        assert_eq!(listens(advertise, allow_plain), expected, "{advertise:?} {allow_plain}");
    }
}

#[test]
fn the_most_that_can_be_asked_for_fits() {
    let most = Wanted { gateways: 30, routes: 20, db_proxies: 8, tls: Some(tls()), ..wanted() };
    let plan = most.plan();
    assert_all_parse(&plan);
    let ports: std::collections::HashSet<_> =
        plan.listens().map(|(addr, _what)| addr.port()).collect();
    assert_eq!(ports.len(), plan.listens().count());
}

#[test]
fn hooks_are_in_the_settings_of_all_that_take_messages_in() {
    let hook = "name = 'words'\nurl = 'http://127.0.0.1:9/'\nsecret_file = '/s'\n";
    let hooks = vec![Value::Table(hook.parse().unwrap())];
    let plan = Wanted { hooks, ..wanted() }.plan();
    assert_all_parse(&plan);
    for hooks in [
        parsed::<api_server::Config>(&plan, "api_server").hooks,
        parsed::<msg_server::Config>(&plan, "msg_server-2").hooks,
    ] {
        assert_eq!(hooks.len(), 1);
        assert_eq!(hooks[0].name, "words");
    }
}

#[test]
fn webhooks_go_to_private_addresses_only_if_that_was_asked_for() {
    for allow_private_webhooks in [false, true] {
        let plan = Wanted { allow_private_webhooks, ..wanted() }.plan();
        let api: api_server::Config = parsed(&plan, "api_server");
        assert_eq!(api.webhooks.allow_private, allow_private_webhooks);
    }
}
