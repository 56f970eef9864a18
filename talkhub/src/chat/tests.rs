//! A chat whose gateway, and whose person, is the test.

use std::sync::{Arc, Mutex};

use clap::Parser;
use client::NotSent;
use proto::client::{
    AllUsersReply, AllUsersRequest, KickReason, LoginResult, MessageListReply, MessageListRequest,
    RefuseReason, SendOutcome, SendResult, UsersInfoReply, UsersInfoRequest,
};
use proto::{Command, encode_message};
use tokio::time::Instant;

use super::testing::{Gateway, user};
use super::*;

const BEN: Conversation = Conversation::user(2);

/// What is on the screen.
#[derive(Clone, Default)]
struct Screen {
    text: Arc<Mutex<Vec<u8>>>,
}

impl Screen {
    /// The lines since this was asked last.
    fn lines(&self) -> Vec<String> {
        let text = std::mem::take(&mut *self.text.lock().unwrap());
        String::from_utf8(text).unwrap().lines().map(str::to_owned).collect()
    }
}

impl Write for Screen {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.text.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A chat without a server.
async fn offline() -> (Chat, Events, Screen) {
    let nowhere = Options::new(Servers::Gateways(Vec::new()), "anna", "password");
    let (client, events) = Client::start(nowhere).await.unwrap();
    let screen = Screen::default();
    let mut chat = Chat::new(client, "anna".to_owned(), Box::new(screen.clone()));
    chat.zone = TimeZone::UTC;
    chat.people.learn(&user(2, "ben"));
    chat.people.learn(&user(3, "cleo"));
    (chat, events, screen)
}

/// The same, in the conversation with ben.
async fn with_ben() -> (Chat, Events, Screen) {
    let (mut chat, events, screen) = offline().await;
    chat.entered(Entered { conversation: BEN, history: Vec::new() }).await.unwrap();
    assert_eq!(screen.lines(), ["— no messages yet; what you type is sent, Ctrl-D ends"]);
    (chat, events, screen)
}

fn said(conversation: Conversation, msg_id: u32, from: u32, text: &str) -> Message {
    Message {
        conversation,
        msg_id: MsgId(msg_id),
        from: UserId(from),
        create_time: 0,
        kind: client::Kind::Text,
        data: proto::text::encrypt(text),
        client_msg_id: None,
    }
}

fn disconnected() -> Event {
    Event::Disconnected { reason: "reset".to_owned(), retry_in: Duration::ZERO }
}

fn connected() -> Event {
    Event::Connected { user: Box::new(user(1, "anna")), server_time: 0 }
}

/// There is no server. Time is paused: it jumps to the next timer whenever all tasks wait.
#[tokio::test(start_paused = true)]
async fn at_the_end_of_the_input_answers_are_waited_for_for_ten_seconds() {
    let (mut chat, events, _screen) = with_ben().await;
    chat.typed("one".to_owned());
    chat.typed("  ".to_owned());
    chat.typed("two".to_owned());
    let began = Instant::now();
    let finished = timeout(Duration::from_mins(1), chat.finish(events)).await;
    let failure = finished.expect("it ends").unwrap_err().to_string();
    assert!(failure.starts_with("2 lines were not sent"), "{failure}");
    assert_eq!(began.elapsed().as_secs(), 10);
}

#[tokio::test(start_paused = true)]
async fn what_comes_before_the_history_is_shown_behind_it_and_nothing_twice() {
    let (mut chat, _events, screen) = offline().await;
    for message in [said(BEN, 3, 2, "three"), said(BEN, 4, 2, "four")] {
        chat.event(Some(Event::Message(message))).await.unwrap();
    }
    assert!(screen.lines().is_empty(), "not before the history");
    let history = vec![said(BEN, 2, 2, "two"), said(BEN, 3, 2, "three")];
    chat.entered(Entered { conversation: BEN, history }).await.unwrap();
    assert_eq!(screen.lines(), ["--:-- ben: two", "--:-- ben: three", "--:-- ben: four"]);
    for message in [said(BEN, 4, 2, "four"), said(BEN, 5, 2, "five")] {
        chat.event(Some(Event::Message(message))).await.unwrap();
    }
    assert_eq!(screen.lines(), ["--:-- ben: five"]);
}

#[tokio::test(start_paused = true)]
async fn of_too_many_that_come_before_the_history_the_oldest_are_in_it() {
    let (mut chat, _events, screen) = offline().await;
    for number in 1..=1025 {
        let message = said(BEN, number, 2, "x");
        chat.event(Some(Event::Message(message))).await.unwrap();
    }
    assert_eq!(chat.held.len(), HELD_MAX);
    assert_eq!(chat.held[0].msg_id, MsgId(2));
    chat.entered(Entered { conversation: BEN, history: vec![said(BEN, 1, 2, "first")] })
        .await
        .unwrap();
    assert_eq!(screen.lines().len(), 1025);
}

#[tokio::test(start_paused = true)]
async fn what_is_said_elsewhere_is_told_once_for_each_conversation() {
    let (mut chat, _events, screen) = with_ben().await;
    for (conversation, from) in
        [(Conversation::user(3), 3), (Conversation::group(9), 2), (Conversation::user(3), 3)]
    {
        let message = said(conversation, 1, from, "psst");
        chat.event(Some(Event::Message(message))).await.unwrap();
    }
    let expected = ["--to cleo", "--to group:9"]
        .map(|to| format!("— there is news in another conversation: {to}"));
    assert_eq!(screen.lines(), expected);
}

#[tokio::test(start_paused = true)]
async fn a_loss_is_told_once_and_so_is_its_end() {
    let (mut chat, _events, screen) = with_ben().await;
    for _attempt in 0..3 {
        chat.event(Some(disconnected())).await.unwrap();
    }
    assert_eq!(screen.lines(), ["— cannot connect (reset); trying again"]);
    chat.event(Some(connected())).await.unwrap();
    assert_eq!(screen.lines(), ["— connected"]);
    chat.event(Some(connected())).await.unwrap();
    assert!(screen.lines().is_empty(), "nothing was lost in between");
    for _attempt in 0..2 {
        chat.event(Some(disconnected())).await.unwrap();
    }
    assert_eq!(screen.lines(), ["— connection lost (reset); trying again"]);
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_client_is_the_end_of_the_chat_and_says_why() {
    let (mut chat, _events, _screen) = with_ben().await;
    let rejected =
        Event::Rejected { result: LoginResult::VersionTooOld, text: "too old".to_owned() };
    for (event, why) in [
        (Some(Event::Kicked(Some(KickReason::DuplicateLogin))), "you have logged in elsewhere"),
        (Some(rejected), "login of anna refused: too old"),
        (None, "the connection has ended for good"),
    ] {
        assert_eq!(chat.event(event).await.unwrap_err().to_string(), why);
    }
    let skipped = Event::Skipped { conversation: BEN, first: MsgId(1), last: MsgId(2) };
    chat.event(Some(skipped)).await.expect("it goes on");
}

#[tokio::test(start_paused = true)]
async fn an_own_line_is_not_shown_again_whichever_comes_first_its_outcome_or_itself() {
    let (mut chat, _events, screen) = with_ben().await;
    let ok = |number| Outcome::Ok { msg_id: MsgId(number), create_time: 0 };
    for line in ["one", "two", "three"] {
        chat.typed(line.to_owned());
    }
    assert_eq!((chat.unanswered, chat.own.len()), (3, 3));
    let mut ids = chat.own.clone().into_iter();
    let (first, second, third) = (ids.next().unwrap(), ids.next().unwrap(), ids.next().unwrap());
    // The outcome, then the message, which history would tell without its id.
    chat.done(Done::Sent(first, "one".to_owned(), ok(1))).unwrap();
    chat.event(Some(Event::Message(said(BEN, 1, 1, "one")))).await.unwrap();
    // The message, then the outcome.
    let message = Message { client_msg_id: Some(second), ..said(BEN, 2, 1, "two") };
    chat.event(Some(Event::Message(message))).await.unwrap();
    chat.done(Done::Sent(second, "two".to_owned(), ok(2))).unwrap();
    assert_eq!(screen.lines(), ["✓ 1", "✓ 2"]);
    assert!(chat.own_numbers.is_empty(), "nothing is remembered for ever");
    // From another device of the same user it is shown.
    chat.people.learn(&user(1, "anna"));
    chat.event(Some(Event::Message(said(BEN, 3, 1, "from my phone")))).await.unwrap();
    assert_eq!(screen.lines(), ["--:-- anna: from my phone"]);
    chat.done(Done::Sent(third, "three".to_owned(), Outcome::NotSent(NotSent::Full))).unwrap();
    assert_eq!(screen.lines(), ["✗ too many lines have no answer yet: three"]);
    assert_eq!((chat.unanswered, chat.unsent), (0, 1));
    let failure = chat.end().unwrap_err().to_string();
    assert_eq!(failure, "1 line was not sent, or it is not known whether it was");
}

#[tokio::test(start_paused = true)]
async fn a_name_from_elsewhere_cannot_move_the_cursor() {
    let (mut chat, _events, screen) = with_ben().await;
    chat.people.learn(&user(7, "eve\u{1b}[2J"));
    let message = said(Conversation::user(7), 1, 7, "psst");
    chat.event(Some(Event::Message(message))).await.unwrap();
    assert_eq!(screen.lines(), ["— there is news in another conversation: --to eve\u{fffd}[2J"]);
    // A screen that is gone ends the chat.
    chat.screen = Box::new(io::pipe().map(|(_gone, screen)| screen).unwrap());
    let error = chat.event(Some(disconnected())).await.unwrap_err().to_string();
    assert!(error.starts_with("cannot write to standard output: "), "{error}");
}

#[tokio::test]
async fn a_conversation_is_entered_with_its_newest_messages_the_oldest_first() {
    let (mut gateway, client, _events) = Gateway::linked().await;
    let to = Target::parse("ben").unwrap();
    let serve = async {
        let asked = gateway.next(Command::AllUsersRequest).await;
        let request: AllUsersRequest = asked.parse().unwrap();
        assert_eq!(request.latest_update_time, 0);
        let reply = AllUsersReply { users: vec![user(2, "ben")], ..AllUsersReply::default() };
        gateway.say(&encode_message(Command::AllUsersReply, asked.seq, &reply)).await;
        let asked = gateway.next(Command::MessageListRequest).await;
        let request: MessageListRequest = asked.parse().unwrap();
        assert_eq!((request.session_type, request.session_id), (1, 2));
        assert_eq!((request.msg_id_begin, request.msg_count), (0, 20));
        // A connection that is lost meanwhile costs nothing.
        gateway.lose().await;
        let asked = gateway.next(Command::MessageListRequest).await;
        let info = |msg_id| proto::client::MessageInfo {
            msg_id,
            msg_type: 1,
            ..proto::client::MessageInfo::default()
        };
        let messages = vec![info(3), info(2)];
        let reply = MessageListReply { messages, ..MessageListReply::default() };
        gateway.say(&encode_message(Command::MessageListReply, asked.seq, &reply)).await;
    };
    let (entered, ()) = tokio::join!(enter(&client, &to), serve);
    let entered = entered.unwrap();
    assert_eq!(entered.conversation, BEN);
    let numbers: Vec<_> = entered.history.iter().map(|message| message.msg_id.0).collect();
    assert_eq!(numbers, [2, 3]);
}

#[tokio::test]
async fn lines_are_sent_marks_are_told_and_senders_are_asked_for_once() {
    let (mut gateway, client, events) = Gateway::linked().await;
    let screen = Screen::default();
    let mut chat = Chat::new(client, "anna".to_owned(), Box::new(screen.clone()));
    let history = vec![said(BEN, 1, 2, "one"), said(BEN, 2, 5, "two"), said(BEN, 3, 2, "three")];
    let serve = async {
        let asked = gateway.next(Command::UsersInfoRequest).await;
        let request: UsersInfoRequest = asked.parse().unwrap();
        assert_eq!(request.user_ids, [2, 5]);
        let users = vec![user(2, "ben"), user(5, "")];
        let reply = UsersInfoReply { users, ..UsersInfoReply::default() };
        gateway.say(&encode_message(Command::UsersInfoReply, asked.seq, &reply)).await;
    };
    let entering = chat.entered(Entered { conversation: BEN, history });
    let (entered, ()) = tokio::join!(entering, serve);
    entered.unwrap();
    let lines = ["ben: one", "nick of : two", "ben: three"].map(|line| format!("--:-- {line}"));
    assert_eq!(screen.lines(), lines);

    chat.typed("hello".to_owned());
    chat.typed("there".to_owned());
    let serve = async {
        let mut marks = Vec::new();
        let mut sent = Vec::new();
        while sent.len() < 2 || marks.len() < 3 {
            let frame = gateway.any().await;
            match frame.known_command() {
                Some(Command::ReadAck) => {
                    let ack: proto::client::ReadAck = frame.parse().unwrap();
                    marks.push((ack.session_id, ack.msg_id));
                }
                Some(Command::MessageData) => {
                    let data: proto::client::MessageData = frame.parse().unwrap();
                    assert_eq!(data.to_session_id, 2);
                    sent.push((frame, data));
                }
                _ => panic!("{frame:?}"),
            }
        }
        marks.sort_unstable();
        assert_eq!(marks, [(2, 1), (2, 2), (2, 3)]);
        for (frame, data) in sent {
            let text = proto::text::decrypt(&data.msg_data).unwrap();
            let is_first = text == "hello";
            let refused = (SendOutcome::Refused, Some(RefuseReason::Blocked.into()));
            let (outcome, reason) = if is_first { (SendOutcome::Ok, None) } else { refused };
            let result = SendResult {
                client_msg_id: data.client_msg_id.unwrap(),
                outcome: outcome.into(),
                msg_id: is_first.then_some(4),
                reason,
                ..SendResult::default()
            };
            gateway.say(&encode_message(Command::SendResult, frame.seq, &result)).await;
        }
    };
    let (finished, ()) = tokio::join!(chat.finish(events), serve);
    let failure = finished.unwrap_err().to_string();
    assert_eq!(failure, "1 line was not sent, or it is not known whether it was");
    let mut lines = screen.lines();
    lines.sort();
    assert_eq!(lines, ["✓ 4", "✗ they do not want messages from you: there"]);
}

#[derive(Debug, Parser)]
struct Cli {
    #[command(flatten)]
    args: ChatArgs,
}

fn parse(line: &str) -> Result<ChatArgs, String> {
    let line = format!("chat --user anna --to ben {line}");
    let parsed = Cli::try_parse_from(line.split(' '));
    parsed.map(|cli| cli.args).map_err(|error| error.render().to_string())
}

#[test]
fn a_password_is_the_one_given_or_that_of_the_demo_users_unless_there_is_something_else() {
    let temp = tempfile::tempdir().unwrap();
    let (there, nowhere) = (temp.path().join("token"), temp.path().join("nowhere"));
    std::fs::write(&there, "token").unwrap();
    let password = |more: &str| {
        let options = options(&parse(&format!("--login http://h {more}")).unwrap()).unwrap();
        assert_eq!(options.name, "anna");
        assert_eq!(options.servers, Servers::Login(vec!["http://h".to_owned()]));
        options.password
    };
    // What the environment says goes before what is assumed.
    let said = env::var("TALKHUB_PASSWORD").ok().filter(|password| !password.is_empty());
    let or = |assumed: &str| said.clone().unwrap_or_else(|| assumed.to_owned());
    assert_eq!(password("--password secret"), "secret");
    assert_eq!(password("--ticket 0aff"), or(""));
    assert_eq!(password(&format!("--token-file {}", there.display())), or(""));
    assert_eq!(password(&format!("--token-file {}", nowhere.display())), or(DEMO_PASSWORD));
    let both = format!("--token-file {} --password secret", there.display());
    assert_eq!(password(&both), "secret");
}

#[test]
fn what_is_shown_in_place_of_a_password_and_whom_to_believe_is_passed_on() {
    let args = parse("--login http://h --ticket 0aff --token-file t").unwrap();
    let options_of = options(&args).unwrap();
    assert_eq!(options_of.ticket.as_deref(), Some(&[10, 255][..]));
    assert_eq!(options_of.token_file, Some(PathBuf::from("t")));
    assert!(options_of.tls.is_none(), "not without https");
    assert!(parse("--login http://h --ticket 0g").unwrap_err().contains("this is no ticket"));
    assert!(parse("--login http://h --to group:0").is_err());

    let args = parse("--login https://h --ca /nowhere/ca.pem").unwrap();
    let failure = options(&args).unwrap_err();
    assert_eq!(failure.code(), crate::failure::EXIT_CONFIG);
    assert!(failure.to_string().starts_with("--ca /nowhere/ca.pem: "), "{failure}");
    let temp = tempfile::tempdir().unwrap();
    let ca = temp.path().join("ca.pem");
    let made = rcgen::generate_simple_self_signed(vec!["h".to_owned()]).unwrap();
    std::fs::write(&ca, made.cert.pem()).unwrap();
    // With an authority of its own it is TLS whatever the address says.
    for scheme in ["http", "https"] {
        let args = parse(&format!("--login {scheme}://h --ca {}", ca.display())).unwrap();
        assert!(options(&args).unwrap().tls.is_some(), "{scheme}");
    }
}
