//! A network of its own for one thread and everything that it starts: nothing there reaches anything
//! else, and packets can be lost.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// A network namespace with a loopback device, which the thread that made it is in for good.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes one, and moves this thread into it. Threads and processes that it starts from now on are
    /// in it too. Says why that cannot be done here.
    pub fn enter() -> Result<Self, String> {
        static MADE: AtomicU32 = AtomicU32::new(0);
        if !rustix::process::geteuid().is_root() {
            return Err("network namespaces need root".to_owned());
        }
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let name = format!("talkhub-{}-{number}", std::process::id());
        run("ip", &["netns", "add", &name], "")?;
        let namespace = Self { name };
        let file = File::open(format!("/run/netns/{}", namespace.name));
        let file = file.map_err(|error| format!("a namespace cannot be opened: {error}"))?;
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
            .map_err(|error| format!("a namespace cannot be entered: {error}"))?;
        run("ip", &["link", "set", "lo", "up"], "")?;
        Ok(namespace)
    }

    /// Loses this many of a hundred packets from now on, chosen by the kernel.
    #[expect(clippy::unused_self, reason = "whoever has one is in it")]
    pub fn lose(&self, percent: u32) -> Result<(), String> {
        let drops = match percent {
            0 => String::new(),
            _ => format!("meta l4proto tcp numgen random mod 100 < {percent} counter drop"),
        };
        let rules = format!(
            "flush ruleset
table inet faults {{
chain arriving {{
type filter hook input priority 0
{drops}
}}
}}
"
        );
        run("nft", &["-f", "-"], &rules).map(drop)
    }

    /// How many packets were lost since the last [`Self::lose`].
    #[expect(clippy::unused_self, reason = "whoever has one is in it")]
    pub fn lost(&self) -> u64 {
        let rules = run("nft", &["list", "ruleset"], "").unwrap_or_default();
        let mut words = rules.split_whitespace().skip_while(|word| *word != "packets").skip(1);
        words.next().and_then(|number| number.parse().ok()).unwrap_or(0)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // It goes when the last of those in it ends; here only its name does.
        run("ip", &["netns", "del", &self.name], "").ok();
    }
}

fn run(program: &str, args: &[&str], input: &str) -> Result<String, String> {
    let what = || format!("`{program} {}`", args.join(" "));
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("{}: {error}", what()))?;
    let mut stdin = child.stdin.take().expect("it was asked for");
    // A program that reads nothing has said on its standard error what is wrong.
    stdin.write_all(input.as_bytes()).ok();
    drop(stdin);
    let output = child.wait_with_output().map_err(|error| format!("{}: {error}", what()))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(format!("{}: {}", what(), String::from_utf8_lossy(&output.stderr).trim()))
}
