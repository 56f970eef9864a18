//! `talkhub chat`: one conversation in a terminal.
//!
//! The client library keeps the connection and the promises; this shows what it hands out, and
//! hands it what is typed. `people` knows names, `screen` what a line looks like.

mod people;
mod screen;

use std::collections::HashSet;
use std::env;
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use client::{Client, Conversation, Event, Events, Message, Options, Outcome, Servers, TlsConfig};
use daemon::config::read_text_key;
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use jiff::tz::TimeZone;
use proto::ids::{ClientMsgId, MsgId, UserId};
use proto::text::TextCipher;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;

use crate::demo::DEMO_PASSWORD;
use crate::failure::Failure;
use crate::terminal::printable;
use people::{People, Target, persist};

/// How long a client that has ended may take to say why.
const LAST_EVENT_LIMIT: Duration = Duration::from_secs(2);

/// Messages shown on entry.
const HISTORY: u32 = 20;
/// Lines without an answer. More are not read from standard input until answers come.
const UNANSWERED_MAX: usize = 256;
/// Messages that come in before the history does. The oldest go first: they are in the history.
const HELD_MAX: usize = 1024;
/// How long to wait at the end for the answers to the last lines.
const LAST_ANSWERS_LIMIT: Duration = Duration::from_secs(10);

/// The arguments of `talkhub chat`.
#[derive(Debug, Args)]
pub struct ChatArgs {
    /// The login endpoint, such as http://127.0.0.1:8080
    #[arg(long, value_name = "URL")]
    login: String,
    /// Who you are: your login name
    #[arg(long, value_name = "NAME")]
    user: String,
    /// Whom to write to: a login name, or group:NUMBER
    #[arg(long, value_name = "NAME|group:ID", value_parser = Target::parse)]
    to: Target,
    /// Your password; else TALKHUB_PASSWORD in the environment, else that of the demo users
    #[arg(long)]
    password: Option<String>,
    /// What `talkhub admin user ticket` has shown, in place of the password
    #[arg(long, value_name = "DIGITS", value_parser = ticket)]
    ticket: Option<Bytes>,
    /// Where the token is kept that the next start logs in with, in place of the password
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// The key with which this site's clients encrypt texts; that of the original clients if not given
    #[arg(long, value_name = "FILE")]
    text_key_file: Option<PathBuf>,
    /// The authority to believe in over https; those of the system if not given
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
}

/// Chats until the end of standard input, or until the user or the server ends it.
pub fn run(args: &ChatArgs) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(format!("cannot start a runtime: {error}")))?;
    let done = runtime.block_on(async {
        let (client, events) = Client::start(options(args)?)
            .await
            .map_err(|error| Failure::new(format!("cannot start: {error}")))?;
        let screen = Box::new(io::stdout());
        Chat::new(client, args.user.clone(), screen).run(events, &args.to).await
    });
    // A thread may still wait for a line that will never be typed.
    runtime.shutdown_background();
    done
}

fn options(args: &ChatArgs) -> Result<Options, Failure> {
    let from_env = || env::var("TALKHUB_PASSWORD").ok().filter(|password| !password.is_empty());
    let password = args.password.clone().or_else(from_env);
    // A user who has a ticket or a token may have no password.
    let has_other =
        args.ticket.is_some() || args.token_file.as_ref().is_some_and(|file| file.exists());
    let default = if has_other { "" } else { DEMO_PASSWORD };
    let password = password.unwrap_or_else(|| default.to_owned());
    let servers = Servers::Login(vec![args.login.clone()]);
    let mut options = Options::new(servers, args.user.clone(), password);
    options.ticket.clone_from(&args.ticket);
    options.token_file.clone_from(&args.token_file);
    if let Some(file) = &args.text_key_file {
        options.cipher = TextCipher::new(&read_text_key("--text-key-file", file)?);
    }
    options.tls = match &args.ca {
        Some(ca) => Some(
            TlsConfig::from_ca_file(ca)
                .map_err(|error| Failure::config(format!("--ca {}: {error}", ca.display())))?,
        ),
        None if args.login.starts_with("https://") => {
            Some(TlsConfig::from(daemon::tls::client_config(None)?))
        }
        None => None,
    };
    Ok(options)
}

fn ticket(digits: &str) -> Result<Bytes, String> {
    let ticket = crate::admin::ticket::read(digits).ok_or("this is no ticket")?;
    Ok(ticket.into())
}

/// Something that was started and is done.
enum Done {
    /// A line that was typed has its outcome.
    Sent(ClientMsgId, String, Outcome),
    Marked,
}

/// What the loop has to do next.
enum Happening {
    Event(Option<Event>),
    Entered(Result<Entered, Failure>),
    Line(io::Result<Option<String>>),
    Done(Done),
    Interrupted,
}

/// A conversation that was found, with its newest messages, the oldest first.
struct Entered {
    conversation: Conversation,
    history: Vec<Message>,
}

/// One conversation on the screen.
struct Chat {
    client: Client,
    screen: Box<dyn Write>,
    own_name: String,
    zone: TimeZone,
    people: People,
    /// None until it was found.
    conversation: Option<Conversation>,
    /// The newest message on the screen.
    shown: MsgId,
    /// Messages that came before the history did.
    held: Vec<Message>,
    /// What was typed here: it is on the screen already. By id until it has its outcome, by number
    /// from then on until it comes in as a message.
    own: HashSet<ClientMsgId>,
    own_numbers: HashSet<MsgId>,
    under_way: FuturesUnordered<BoxFuture<'static, Done>>,
    unanswered: usize,
    unsent: usize,
    is_online: bool,
    /// Whether it has been said that there is no connection.
    is_told: bool,
    /// Other conversations that had a message and have been named on the screen.
    elsewhere: HashSet<Conversation>,
}

impl Chat {
    fn new(client: Client, own_name: String, screen: Box<dyn Write>) -> Self {
        Self {
            client,
            screen,
            own_name,
            zone: TimeZone::system(),
            people: People::default(),
            conversation: None,
            shown: MsgId(0),
            held: Vec::new(),
            own: HashSet::new(),
            own_numbers: HashSet::new(),
            under_way: FuturesUnordered::new(),
            unanswered: 0,
            unsent: 0,
            is_online: false,
            is_told: false,
            elsewhere: HashSet::new(),
        }
    }

    async fn run(mut self, mut events: Events, to: &Target) -> Result<(), Failure> {
        let wrong = |error: io::Error| Failure::new(format!("cannot wait for signals: {error}"));
        let mut interrupt = signal(SignalKind::interrupt()).map_err(wrong)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(wrong)?;
        let mut lines = BufReader::new(tokio::io::stdin()).lines();

        let client = self.client.clone();
        let entering = enter(&client, to);
        tokio::pin!(entering);
        loop {
            let is_in = self.conversation.is_some();
            let happening = tokio::select! {
                _signal = interrupt.recv() => Happening::Interrupted,
                _signal = terminate.recv() => Happening::Interrupted,
                event = events.next() => Happening::Event(event),
                entered = &mut entering, if !is_in => Happening::Entered(entered),
                Some(done) = self.under_way.next() => Happening::Done(done),
                line = lines.next_line(), if is_in && self.unanswered < UNANSWERED_MAX => {
                    Happening::Line(line)
                }
            };
            match happening {
                Happening::Interrupted => return self.end(),
                Happening::Event(event) => self.event(event).await?,
                Happening::Entered(Ok(entered)) => self.entered(entered).await?,
                Happening::Entered(Err(failure)) => return Err(self.why(failure, events).await),
                Happening::Done(done) => self.done(done)?,
                Happening::Line(Ok(Some(line))) => self.typed(line),
                Happening::Line(Ok(None)) => return self.finish(events).await,
                Happening::Line(Err(error)) => {
                    return Err(Failure::new(format!("cannot read standard input: {error}")));
                }
            }
        }
    }

    /// Why the conversation could not be entered. A client that ends says so before it says why.
    async fn why(&mut self, failure: Failure, mut events: Events) -> Failure {
        if self.client.user().is_some() {
            return failure;
        }
        while let Ok(Some(event)) = timeout(LAST_EVENT_LIMIT, events.next()).await {
            if let Err(reason) = self.event(Some(event)).await {
                return reason;
            }
        }
        failure
    }

    async fn entered(&mut self, entered: Entered) -> Result<(), Failure> {
        let Entered { conversation, history } = entered;
        let senders: Vec<UserId> = history.iter().map(|message| message.from).collect();
        self.people.learn_all(&self.client.clone(), &senders).await;
        self.conversation = Some(conversation);
        if history.is_empty() {
            self.say("— no messages yet; what you type is sent, Ctrl-D ends")?;
        }
        for message in history {
            self.message(message).await?;
        }
        for message in std::mem::take(&mut self.held) {
            self.message(message).await?;
        }
        Ok(())
    }

    async fn event(&mut self, event: Option<Event>) -> Result<(), Failure> {
        match event {
            Some(Event::Connected { user, .. }) => {
                self.people.learn(&user);
                self.is_online = true;
                if std::mem::take(&mut self.is_told) {
                    self.say("— connected")?;
                }
            }
            Some(Event::Disconnected { reason, .. }) => {
                // Once for each loss, not for each attempt.
                if !std::mem::replace(&mut self.is_told, true) {
                    let what = if self.is_online { "connection lost" } else { "cannot connect" };
                    self.say(&format!("— {what} ({reason}); trying again"))?;
                }
                self.is_online = false;
            }
            Some(Event::Message(message)) if self.conversation.is_none() => {
                if self.held.len() == HELD_MAX {
                    self.held.remove(0);
                }
                self.held.push(message);
            }
            Some(Event::Message(message)) => self.message(message).await?,
            Some(Event::Kicked(reason)) => return Err(Failure::new(screen::kicked(reason))),
            Some(Event::Rejected { result, text }) => {
                let (name, why) = (&self.own_name, screen::rejected(result, &text));
                return Err(Failure::new(format!("login of {name} refused: {why}")));
            }
            Some(Event::Skipped { .. } | Event::Sent { .. } | Event::Push(_)) => {}
            None => return Err(Failure::new("the connection has ended for good")),
        }
        Ok(())
    }

    /// Shows a message, if it is of this conversation and not on the screen yet.
    async fn message(&mut self, message: Message) -> Result<(), Failure> {
        if Some(message.conversation) != self.conversation {
            return self.other_session(&message).await;
        }
        if message.msg_id <= self.shown {
            return Ok(());
        }
        self.shown = message.msg_id;
        let is_own = message.client_msg_id.is_some_and(|id| self.own.contains(&id));
        if self.own_numbers.remove(&message.msg_id) || is_own {
            return Ok(());
        }
        let client = self.client.clone();
        let sender = self.people.name(&client, message.from).await;
        let line = screen::message(&message, client.cipher(), &sender, &self.zone);
        self.say(&line)?;
        let (conversation, msg_id) = (message.conversation, message.msg_id);
        self.under_way.push(Box::pin(async move {
            // A mark that gets lost is made good by the next one.
            client.mark_read(conversation, msg_id).await.ok();
            Done::Marked
        }));
        Ok(())
    }

    async fn other_session(&mut self, message: &Message) -> Result<(), Failure> {
        if !self.elsewhere.insert(message.conversation) {
            return Ok(());
        }
        let client = self.client.clone();
        let text = match message.conversation {
            Conversation::User(user) => {
                let name = self.people.name(&client, user).await;
                format!("— there is news in another conversation: --to {name}")
            }
            Conversation::Group(group) => {
                format!("— there is news in another conversation: --to group:{}", group.0)
            }
        };
        self.say(&printable(&text))
    }

    fn typed(&mut self, line: String) {
        let Some(conversation) = self.conversation else { return };
        if line.trim().is_empty() {
            return;
        }
        let sending = self.client.send_text(conversation, &line);
        let id = sending.client_msg_id();
        self.own.insert(id);
        self.unanswered += 1;
        self.under_way.push(Box::pin(async move { Done::Sent(id, line, sending.await) }));
    }

    fn done(&mut self, done: Done) -> Result<(), Failure> {
        let Done::Sent(id, line, outcome) = done else { return Ok(()) };
        self.unanswered -= 1;
        self.own.remove(&id);
        if let Outcome::Ok { msg_id, .. } = outcome {
            if msg_id > self.shown {
                self.own_numbers.insert(msg_id);
            }
        } else {
            self.unsent += 1;
        }
        self.say(&screen::outcome(&outcome, &line))
    }

    /// The input is at its end: what was typed gets its answers.
    async fn finish(mut self, mut events: Events) -> Result<(), Failure> {
        let answers = async {
            while self.unanswered > 0 {
                tokio::select! {
                    Some(done) = self.under_way.next() => self.done(done)?,
                    event = events.next() => self.event(event).await?,
                }
            }
            Ok::<(), Failure>(())
        };
        match timeout(LAST_ANSWERS_LIMIT, answers).await {
            Ok(answered) => answered?,
            Err(_elapsed) => self.unsent += self.unanswered,
        }
        self.end()
    }

    fn say(&mut self, line: &str) -> Result<(), Failure> {
        let screen = &mut self.screen;
        writeln!(screen, "{line}")
            .and_then(|()| screen.flush())
            .map_err(|error| Failure::new(format!("cannot write to standard output: {error}")))
    }

    fn end(self) -> Result<(), Failure> {
        match self.unsent {
            0 => Ok(()),
            1 => Err(Failure::new("1 line was not sent, or it is not known whether it was")),
            many => Err(Failure::new(format!(
                "{many} lines were not sent, or it is not known whether they were"
            ))),
        }
    }
}

/// Finds the conversation and what was said last.
async fn enter(client: &Client, to: &Target) -> Result<Entered, Failure> {
    let conversation = to.find(client).await?;
    let mut history = persist(|| client.history(conversation, None, HISTORY)).await?;
    history.sort_by_key(|message| message.msg_id);
    Ok(Entered { conversation, history })
}

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
