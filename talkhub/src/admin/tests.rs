//! Commands as they are typed, what they ask a db_proxy, and what a person reads.

use clap::Parser;
use proto::cluster::wire::{ApiKeyLine, ApiKeyRevoke, ConsumerLine, SessionLine};

use super::*;
use crate::admin_link::testing::DbProxy;

#[derive(Debug, Parser)]
struct Cli {
    #[command(flatten)]
    args: AdminArgs,
}

fn parse(line: &str) -> Result<AdminArgs, String> {
    Cli::try_parse_from(line.split(' '))
        .map(|cli| cli.args)
        .map_err(|error| error.render().to_string())
}

#[test]
fn the_place_of_the_cluster_may_be_said_before_or_after_the_command() {
    for line in ["admin --data d user list", "admin user list --data d"] {
        assert_eq!(parse(line).unwrap().data, Path::new("d"));
    }
    let error = parse("admin group add everyone").unwrap_err();
    assert!(error.contains("<MEMBERS>"), "{error}");
}

#[test]
fn without_a_running_cluster_the_error_says_what_to_do() {
    let temp = tempfile::tempdir().unwrap();
    let args = parse(&format!("admin --data {} user list", temp.path().display())).unwrap();
    let error = Target::find(&args).unwrap_err().to_string();
    assert!(error.contains("no cluster of `talkhub up` runs"), "{error}");
    assert!(error.contains("--db"), "{error}");
}

#[test]
fn several_db_proxies_may_be_named() {
    let args = parse("admin --db one:1,two:2 --cluster-key-file key user list").unwrap();
    assert_eq!(Target::find(&args).unwrap().db, ["one:1", "two:2"]);
}

#[tokio::test]
async fn a_name_that_is_on_no_list_is_looked_for_for_a_second() {
    let (mut db_proxy, link) = DbProxy::linked().await;
    let none = AdminAnswer { done: true, ..AdminAnswer::default() };
    let answer = async move { db_proxy.answer(Duration::from_secs(1), &none).await };
    let (found, ()) = tokio::join!(find_group(&link, "strangers"), answer);
    let failure = found.unwrap_err().to_string();
    assert_eq!(failure, "there is no group called strangers");
}

/// Carries out a command, whose questions have these answers. Returns what was asked, and what is told.
async fn carried_out(line: &str, answers: &[AdminAnswer]) -> (Vec<What>, Result<String, Failure>) {
    let (mut db_proxy, link) = DbProxy::linked().await;
    let args = parse(&format!("admin {line}")).unwrap();
    let Noun::Asked(asked) = &args.what else { panic!("db_proxy is not asked") };
    let command = Ready::new(asked).unwrap();
    let serve = async {
        let mut questions = Vec::new();
        for answer in answers {
            questions.push(db_proxy.asked(answer).await);
        }
        questions
    };
    let (told, questions) = tokio::join!(command.carry_out(&link), serve);
    link.close().await;
    (questions, told)
}

fn done() -> AdminAnswer {
    AdminAnswer { done: true, ..AdminAnswer::default() }
}

/// Carries out a command that asks one thing. Returns what that is, and what is told.
async fn once(line: &str, answer: AdminAnswer) -> (What, String) {
    let (mut questions, told) = carried_out(line, &[answer]).await;
    (questions.remove(0), told.unwrap())
}

#[tokio::test]
async fn users_are_added_with_what_was_said_of_them() {
    let id = AdminAnswer { id: Some(7), ..done() };
    let line = "user add anna --password secret --nick Anna --department 3";
    let (asked, told) = once(line, id).await;
    let mut user = UserAdd {
        name: "anna".to_owned(),
        password: "secret".to_owned(),
        nick: Some("Anna".to_owned()),
        department: Some(3),
    };
    assert_eq!((asked, told.as_str()), (What::UserAdd(user.clone()), "user anna added (id 7)"));
    let (asked, told) = once("user add anna --password secret", done()).await;
    (user.nick, user.department) = (None, None);
    assert_eq!((asked, told.as_str()), (What::UserAdd(user), "user anna added"));
    let empty = parse("admin user add anna --password ").unwrap();
    let Noun::Asked(asked) = &empty.what else { panic!("db_proxy is asked") };
    assert!(Ready::new(asked).is_err(), "a password must not be empty");
}

#[tokio::test]
async fn what_is_done_to_a_user_is_asked_for_and_told() {
    let name = || "anna".to_owned();
    let password = UserPassword { name: name(), password: "new".to_owned() };
    let disable = |enable| What::UserDisable(UserDisable { name: name(), enable: Some(enable) });
    let ticket = UserTicket { name: name(), client_type: 0x12 };
    for (line, asks, tells) in [
        ("passwd anna --password new", What::UserPassword(password), "password of anna changed"),
        ("disable anna", disable(false), "user anna disabled"),
        ("enable anna", disable(true), "user anna enabled"),
        ("unlock anna", What::UserUnlock(UserUnlock { name: name() }), "delays of anna lifted"),
        ("kick anna", What::UserKick(UserKick { name: name() }), "sessions of anna ended"),
        ("ticket anna --device android", What::UserTicket(ticket), "0aff"),
    ] {
        let answer = AdminAnswer { ticket: Some(vec![10, 255].into()), ..done() };
        let (asked, told) = once(&format!("user {line}"), answer).await;
        assert_eq!((asked, told.as_str()), (asks, tells), "{line}");
    }
    let session = SessionLine { client_type: 1, gateway: "gate".to_owned(), ..<_>::default() };
    let answer = AdminAnswer { sessions: vec![session], ..done() };
    let (asked, told) = once("user sessions anna", answer).await;
    assert_eq!(asked, What::UserSessions(UserSessions { name: name() }));
    assert!(told.contains("Windows") && told.contains("gate"), "{told}");
}

#[tokio::test]
async fn a_key_is_made_shown_once_listed_and_revoked() {
    let answer = || AdminAnswer { api_key: Some("thk_1_2".to_owned()), ..done() };
    let line = "key create hr --scope read,users --scope send --days 2 --rate 5";
    let (asked, told) = once(line, answer()).await;
    let mut wanted = ApiKeyCreate {
        name: "hr".to_owned(),
        scopes: ["read", "users", "send"].map(str::to_owned).to_vec(),
        rate: Some(5),
        lifetime_s: Some(172_800),
    };
    assert_eq!((asked, told.as_str()), (What::ApiKeyCreate(wanted.clone()), "thk_1_2"));
    let (asked, _told) = once("key create hr --scope groups", answer()).await;
    (wanted.rate, wanted.lifetime_s) = (None, None);
    wanted.scopes = vec!["groups".to_owned()];
    assert_eq!(asked, What::ApiKeyCreate(wanted));
    for wrong in ["", "--scope all", "--scope read --days 0", "--scope read --rate 0"] {
        assert!(parse(format!("admin key create hr {wrong}").trim()).is_err(), "{wrong}");
    }

    let (asked, told) = once("key revoke hr", done()).await;
    let revoke = ApiKeyRevoke { name: "hr".to_owned() };
    assert_eq!((asked, told.as_str()), (What::ApiKeyRevoke(revoke), "key hr revoked"));
    let key = ApiKeyLine { name: "ci\u{1b}".to_owned(), ..ApiKeyLine::default() };
    let (asked, told) = once("key list", AdminAnswer { api_keys: vec![key], ..done() }).await;
    assert_eq!(asked, What::ApiKeyList(ApiKeyList {}));
    assert!(told.lines().count() == 2 && told.contains("ci") && !told.contains('\u{1b}'));
}

fn user(id: u32, name: &str, disabled: bool) -> UserLine {
    let nick = format!("{name}\u{1b}");
    UserLine { id, name: name.to_owned(), nick, department: 3, disabled }
}

#[tokio::test]
async fn a_long_list_of_users_is_asked_for_page_by_page() {
    let pages = [
        AdminAnswer { users: vec![user(1, "anna", false)], more: Some(true), ..done() },
        AdminAnswer { users: vec![user(2, "ben", true)], more: Some(true), ..done() },
        // No more, although it says so: else this would go on for ever.
        AdminAnswer { more: Some(true), ..done() },
    ];
    let (asked, told) = carried_out("user list", &pages).await;
    let page = |after: Option<&str>| {
        What::UserList(UserList { after: after.map(str::to_owned), count: Some(PAGE) })
    };
    assert_eq!(asked, [page(None), page(Some("anna")), page(Some("ben"))]);
    let expected = [
        "      id  name                 nick                 department  state",
        "       1  anna                 anna\u{fffd}                         3  active",
        "       2  ben                  ben\u{fffd}                          3  disabled",
    ];
    assert_eq!(told.unwrap(), expected.join("\n"));
    let last = [AdminAnswer { users: vec![user(1, "anna", false)], ..done() }];
    assert_eq!(carried_out("user list", &last).await.0.len(), 1);
}

fn group(id: u32, name: &str) -> GroupLine {
    GroupLine { id, name: name.to_owned(), group_type: 1, creator: 7, members: 12 }
}

#[tokio::test]
async fn groups_are_made_and_listed_page_by_page() {
    let made = AdminAnswer { id: Some(9), ..done() };
    let (asked, told) = once("group create friends anna ben", made).await;
    let create = GroupCreate {
        name: "friends".to_owned(),
        members: vec!["anna".to_owned(), "ben".to_owned()],
        ..GroupCreate::default()
    };
    assert_eq!((asked, told.as_str()), (What::GroupCreate(create), "group friends created (id 9)"));

    let pages = [
        AdminAnswer { groups: vec![group(8, "family")], more: Some(true), ..done() },
        AdminAnswer { groups: vec![group(9, "fri\nends")], more: Some(false), ..done() },
    ];
    let (asked, told) = carried_out("group list", &pages).await;
    let page = |after| What::GroupList(GroupList { after, count: Some(PAGE) });
    assert_eq!(asked, [page(None), page(Some(8))]);
    let expected = [
        "      id  name                          members  creator",
        "       8  family                             12        7",
        "       9  fri\u{fffd}ends                           12        7",
    ];
    assert_eq!(told.unwrap(), expected.join("\n"));
}

#[tokio::test]
async fn a_group_may_be_meant_by_its_number_or_by_its_name() {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let change = |add: &[&str], remove: &[&str]| {
        What::GroupChange(GroupChange {
            group: 9,
            add: names(add),
            remove: names(remove),
            ..GroupChange::default()
        })
    };
    let (asked, told) = once("group add 9 anna", done()).await;
    assert_eq!(asked, change(&["anna"], &[]));
    assert_eq!(told, "1 member added: group 9 (id 9)");

    let list = AdminAnswer { groups: vec![group(8, "family"), group(9, "friends")], ..done() };
    let (asked, told) = carried_out("group remove friends anna ben", &[list.clone(), done()]).await;
    assert_eq!(asked[1], change(&[], &["anna", "ben"]));
    assert_eq!(told.unwrap(), "2 members removed: group friends (id 9)");
    let (asked, told) = carried_out("group delete friends", &[list.clone(), done()]).await;
    assert_eq!(asked[1], What::GroupDelete(GroupDelete { group: 9 }));
    assert_eq!(told.unwrap(), "group friends deleted (id 9)");

    let twice = AdminAnswer { groups: vec![group(9, "friends"), group(8, "friends")], ..done() };
    let (asked, told) = carried_out("group delete friends", &[twice]).await;
    assert_eq!(asked.len(), 1, "nothing is deleted");
    let failure = told.unwrap_err().to_string();
    assert_eq!(failure, "several groups are called friends: use an id of 9, 8");
    // What is refused is told, and not what was to be told if it is done.
    let refused = AdminAnswer { error: Some("no such user".to_owned()), ..<_>::default() };
    let (_asked, told) = carried_out("group add friends dora", &[list, refused]).await;
    assert_eq!(told.unwrap_err().to_string(), "no such user");
}

#[tokio::test]
async fn a_group_that_was_just_made_is_found_when_the_list_has_it() {
    let (mut db_proxy, link) = DbProxy::linked().await;
    let serve = async {
        db_proxy.asked(&done()).await;
        db_proxy.asked(&AdminAnswer { groups: vec![group(9, "friends")], ..done() }).await;
    };
    let (found, ()) = tokio::join!(find_group(&link, "friends"), serve);
    assert_eq!(found, Ok((9, "friends".to_owned())));
}

#[test]
fn a_running_cluster_says_where_its_db_proxies_are() {
    let temp = tempfile::tempdir().unwrap();
    let args = parse(&format!("admin --data {} user list", temp.path().display())).unwrap();
    let file = folder::status_file(temp.path());
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    let write = |db: &str| {
        let status = r#"{"login":"","gateways":[],"metrics":[],"processes":[]"#;
        fs::write(&file, format!("{status}{db}}}")).unwrap();
    };
    write(r#","db":["127.0.0.1:1","127.0.0.1:2"]"#);
    let target = Target::find(&args).unwrap();
    assert_eq!(target.db, ["127.0.0.1:1", "127.0.0.1:2"]);
    assert_eq!(target.cluster.key_file, Some(folder::key_file(temp.path())));
    assert!(target.cluster.tls.is_none());
    write("");
    let failure = Target::find(&args).unwrap_err().to_string();
    assert!(failure.contains("no cluster of `talkhub up` runs"), "{failure}");
    write("no json");
    let failure = Target::find(&args).unwrap_err().to_string();
    assert!(failure.contains("up.json: "), "{failure}");
}

#[test]
fn encrypted_links_need_all_three_files() {
    let all =
        "admin --db h:1 --cluster-key-file k --link-cert c --link-key l --link-ca a user list";
    let target = Target::find(&parse(all).unwrap()).unwrap();
    let tls = target.cluster.tls.unwrap();
    assert_eq!((tls.cert, tls.key, tls.ca), ("c".into(), "l".into(), "a".into()));
    assert_eq!(target.cluster.key_file, Some("k".into()));
    for part in [" --link-cert c", " --link-key l", " --link-ca a"] {
        let error = parse(&all.replace(part, "")).unwrap_err();
        assert!(error.contains("--link-"), "{error}");
    }
}

#[tokio::test]
async fn consumers_are_shown_with_how_far_behind_they_are_and_forgotten() {
    let consumer = |name: &str, offset| ConsumerLine {
        name: name.to_owned(),
        partition: 0,
        offset,
        stored_offset: 90,
    };
    let consumers = vec![consumer("audit", 95), consumer("push", 70)];
    let (asked, told) = once("consumer list", AdminAnswer { consumers, ..done() }).await;
    assert_eq!(asked, What::ConsumerList(ConsumerList {}));
    let lines: Vec<Vec<_>> = told.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["name", "partition", "offset", "behind"]);
    assert_eq!(lines[1], ["audit", "0", "95", "0"], "the store is behind the log");
    assert_eq!(lines[2], ["push", "0", "70", "20"]);
    let (asked, told) = once("consumer forget push", done()).await;
    let forget = ConsumerForget { name: "push".to_owned() };
    assert_eq!((asked, told.as_str()), (What::ConsumerForget(forget), "consumer push forgotten"));
}
