//! Which member gets which partition, and when.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use backends::{Kafka, PATIENCE};
use rustix::process::{Pid, Signal, kill_process};

use super::topic;
use crate::kafka::ownership::{SESSION, STOP_LIMIT};
use crate::kafka::{Event, Options, Ownership};

const PARTITIONS: u32 = 6;

/// Tell the process that is killed what to join.
const BROKERS: &str = "TALKHUB_TEST_BROKERS";
const TOPIC: &str = "TALKHUB_TEST_TOPIC";
const GROUP: &str = "TALKHUB_TEST_GROUP";

/// How long the partitions of a dead owner may be without one: ten seconds, and as much again for a
/// machine that has other work too.
const TAKEOVER: Duration = Duration::from_secs(20);

/// A member, whose events come from a thread, so that one can wait for them for a while.
struct Member {
    events: Receiver<Event>,
    has: BTreeSet<u32>,
}

impl Member {
    fn join(options: &Options, name: &str) -> Self {
        let mut ownership = Ownership::join(options, name).unwrap();
        let (sender, events) = mpsc::sync_channel(1);
        std::thread::spawn(move || {
            while let Some(event) = ownership.blocking_next() {
                if sender.send(event).is_err() {
                    return;
                }
            }
        });
        Self { events, has: BTreeSet::new() }
    }

    /// Takes events until it has so many partitions. What is revoked stops at once.
    fn take_until(&mut self, count: usize) {
        let began = Instant::now();
        while self.has.len() != count {
            let left = PATIENCE.saturating_sub(began.elapsed());
            let event = self.events.recv_timeout(left);
            match event.unwrap_or_else(|_| panic!("{count} in time, not {:?}", self.has)) {
                Event::Assigned(new) => self.has.extend(new),
                Event::Revoked(old, ack) => {
                    self.has.retain(|partition| !old.contains(partition));
                    drop(ack);
                }
                Event::Lost(old) => self.has.retain(|partition| !old.contains(partition)),
            }
        }
    }
}

fn all() -> BTreeSet<u32> {
    (0..PARTITIONS).collect()
}

#[test]
fn members_share_the_partitions_and_inherit_those_of_one_that_leaves() {
    let place = topic(Kafka::shared(), PARTITIONS);
    let mut first = Member::join(place.topic.options(), "first");
    first.take_until(6);
    assert_eq!(first.has, all());

    let mut second = Ownership::join(place.topic.options(), "second").unwrap();
    first.take_until(3);
    let Some(Event::Assigned(seconds)) = second.blocking_next() else { panic!("it gets its half") };
    assert_eq!(seconds.len(), 3);
    assert!(seconds.iter().all(|partition| !first.has.contains(partition)), "each has one owner");
    assert!(second.rebalances() > 0);

    let began = Instant::now();
    second.leave();
    let Some(Event::Revoked(revoked, ack)) = second.blocking_next() else {
        panic!("it is told to stop")
    };
    assert_eq!(revoked, seconds);
    drop(ack);
    assert!(second.blocking_next().is_none(), "it has left");
    first.take_until(6);
    assert!(began.elapsed() < SESSION, "nobody waits for one that said good-bye");
}

#[test]
fn a_partition_is_not_given_away_before_it_has_stopped() {
    let place = topic(Kafka::shared(), PARTITIONS);
    let mut first = Ownership::join(place.topic.options(), "first").unwrap();
    let Some(Event::Assigned(had)) = first.blocking_next() else { panic!("it gets everything") };
    assert_eq!(had.len(), 6);

    let second = Member::join(place.topic.options(), "second");
    let Some(Event::Revoked(_half, ack)) = first.blocking_next() else {
        panic!("it gives half away")
    };
    let too_early = second.events.recv_timeout(STOP_LIMIT / 3);
    assert!(
        matches!(too_early, Err(RecvTimeoutError::Timeout)),
        "it has not stopped: {too_early:?}"
    );
    drop(ack);
    let Ok(Event::Assigned(half)) = second.events.recv_timeout(PATIENCE) else {
        panic!("it gets half")
    };
    assert_eq!(half.len(), 3);
}

#[test]
fn an_owner_that_does_not_stop_is_not_waited_for_long() {
    let place = topic(Kafka::shared(), PARTITIONS);
    let mut first = Ownership::join(place.topic.options(), "first").unwrap();
    assert!(matches!(first.blocking_next(), Some(Event::Assigned(_))));
    let mut second = Member::join(place.topic.options(), "second");
    let Some(Event::Revoked(_half, ack)) = first.blocking_next() else {
        panic!("it gives half away")
    };
    second.take_until(3);
    drop(ack);
}

#[test]
#[ignore = "the process that other tests kill"]
fn a_member_in_a_process_of_its_own() {
    let told = |name| std::env::var(name).ok();
    let (Some(brokers), Some(topic), Some(group)) = (told(BROKERS), told(TOPIC), told(GROUP))
    else {
        return;
    };
    let options = Options { group, ..Options::new(brokers, topic, PARTITIONS) };
    let mut ownership = Ownership::join(&options, "process").unwrap();
    std::thread::spawn(move || {
        while let Some(event) = ownership.blocking_next() {
            match event {
                Event::Assigned(new) => println!("\nassigned {}", new.len()),
                Event::Revoked(old, _ack) => println!("\nrevoked {}", old.len()),
                Event::Lost(old) => println!("\nlost {}", old.len()),
            }
        }
    });
    // Until the test that started it is gone.
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
}

/// The process, which has joined, and what it says.
struct Process {
    child: Child,
    says: BufReader<std::process::ChildStdout>,
}

impl Process {
    fn join(options: &Options) -> Self {
        let (_crate, module) = module_path!().split_once("::").unwrap();
        let name = format!("{module}::a_member_in_a_process_of_its_own");
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([&name, "--exact", "--ignored", "--nocapture"])
            .env(BROKERS, &options.bootstrap)
            .env(TOPIC, &options.topic)
            .env(GROUP, &options.group)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let says = BufReader::new(child.stdout.take().unwrap());
        Self { child, says }
    }

    fn hear(&mut self, expected: &str) {
        let mut line = String::new();
        while line.trim() != expected {
            line.clear();
            assert_ne!(self.says.read_line(&mut line).unwrap(), 0, "it says {expected}");
        }
    }

    /// By the system call: the program `kill` is not on every machine.
    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        kill_process(pid.expect("a process has a number"), signal).expect("it is ours");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Two members, one of which is the process.
fn with_a_process() -> (Member, Process) {
    let place = topic(Kafka::shared(), PARTITIONS);
    let mut member = Member::join(place.topic.options(), "member");
    member.take_until(6);
    let mut process = Process::join(place.topic.options());
    member.take_until(3);
    process.hear("assigned 3");
    (member, process)
}

#[test]
fn the_partitions_of_a_killed_owner_have_another_in_time() {
    let (mut member, process) = with_a_process();
    process.signal(Signal::KILL);
    let began = Instant::now();
    member.take_until(6);
    println!("taken over after {:?}", began.elapsed());
    assert!(began.elapsed() < TAKEOVER, "{:?}", began.elapsed());
}

#[test]
fn an_owner_that_was_stopped_for_long_is_told_what_it_lost() {
    let (mut member, mut process) = with_a_process();
    process.signal(Signal::STOP);
    member.take_until(6);
    process.signal(Signal::CONT);
    process.hear("lost 3");
    member.take_until(3);
    process.hear("assigned 3");
}
