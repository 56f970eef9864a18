//! Links that can be cut: each goes through a proxy of ours, which passes bytes on, keeps them, holds
//! them up, or breaks the connection.
//!
//! A wire has a direction: forward is from the daemon that dials to the one that listens. A direction
//! that is cut takes nothing, as if the packets were lost: neither end is told, connections made
//! meanwhile stay without an answer, and what was on its way arrives after the cut, as TCP sends it
//! again.
//!
//! # What bounds it
//!
//! One chunk of 64 KiB for each direction of a connection; beyond, the kernel's buffers fill and the
//! sender waits.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf, split};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::time::sleep;

use crate::Random;

/// What is read and passed on at once.
const CHUNK: usize = 64 << 10;

/// Which daemon is linked to which.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ends {
    /// The one that dials.
    pub from: String,
    /// The one that listens.
    pub to: String,
}

impl Ends {
    /// The link from one daemon to another.
    pub fn new(from: &str, to: &str) -> Self {
        Self { from: from.to_owned(), to: to.to_owned() }
    }

    /// Whether it links someone of these to someone else.
    fn crosses(&self, side: &[String]) -> bool {
        side.contains(&self.from) != side.contains(&self.to)
    }
}

/// How a wire behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Manner {
    /// Nothing goes from the one that dials to the one that listens.
    pub forward_cut: bool,
    /// Nothing goes the other way.
    pub backward_cut: bool,
    /// Every chunk is held up for a random time up to this.
    pub delay_max: Duration,
}

impl Manner {
    /// Nothing goes either way.
    pub const CUT: Self = Self { forward_cut: true, backward_cut: true, delay_max: Duration::ZERO };
}

/// The wires of a site.
#[derive(Debug)]
pub struct Wires {
    runtime: Runtime,
    wires: BTreeMap<Ends, Wire>,
}

#[derive(Debug)]
struct Wire {
    control: watch::Sender<Control>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Control {
    manner: Manner,
    /// Connections made under an earlier number are broken.
    generation: u64,
    /// Connections made under an earlier number pass nothing on, and neither end is told.
    frozen_before: u64,
}

impl Default for Wires {
    fn default() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("start a runtime");
        Self { runtime, wires: BTreeMap::new() }
    }
}

impl Wires {
    /// Lays a wire to `target`. Returns the address to dial instead.
    pub fn lay(&mut self, ends: Ends, target: &str) -> String {
        let target: SocketAddr = target.parse().expect("a daemon is at an address");
        let bound = self.runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)));
        let listener = bound.expect("there is a free port");
        let address = listener.local_addr().expect("it is bound");
        let (control, seen) = watch::channel(Control::default());
        self.spawn(serve(listener, target, seen));
        self.wires.insert(ends, Wire { control });
        address.to_string()
    }

    /// Those between daemons.
    pub fn between_daemons(&self) -> Vec<Ends> {
        self.wires.keys().filter(|ends| ends.from != "clients").cloned().collect()
    }

    /// Sets how a wire behaves.
    pub fn set(&self, ends: &Ends, manner: Manner) {
        self.wire(ends).control.send_modify(|control| control.manner = manner);
    }

    /// Sets how every wire between daemons behaves.
    pub fn set_all(&self, manner: Manner) {
        for ends in self.between_daemons() {
            self.set(&ends, manner);
        }
    }

    /// Cuts these daemons off from all others. Returns how many wires that cuts.
    pub fn part(&self, side: &[String]) -> usize {
        let crossing: Vec<Ends> =
            self.between_daemons().into_iter().filter(|ends| ends.crosses(side)).collect();
        for ends in &crossing {
            self.set(ends, Manner::CUT);
        }
        crossing.len()
    }

    /// All wires between daemons are whole again.
    pub fn heal(&self) {
        self.set_all(Manner::default());
    }

    /// Breaks the connections that there are: both ends get a reset.
    pub fn reset(&self, ends: &Ends) {
        self.wire(ends).control.send_modify(|control| control.generation += 1);
    }

    /// Leaves the existing connections half-open: nothing passes from then on, and neither end is told.
    /// New ones work.
    pub fn freeze(&self, ends: &Ends) {
        self.wire(ends).control.send_modify(|control| {
            control.generation += 1;
            control.frozen_before = control.generation;
        });
    }

    fn wire(&self, ends: &Ends) -> &Wire {
        self.wires.get(ends).unwrap_or_else(|| panic!("there is a wire {ends:?}"))
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.runtime.spawn(task);
    }
}

async fn serve(listener: TcpListener, target: SocketAddr, control: watch::Receiver<Control>) {
    loop {
        let Ok((socket, _peer)) = listener.accept().await else { continue };
        let control = control.clone();
        #[expect(clippy::disallowed_methods, reason = "it ends with the runtime, which is ours")]
        tokio::spawn(connection(socket, target, control));
    }
}

async fn connection(near: TcpStream, target: SocketAddr, mut control: watch::Receiver<Control>) {
    // Before anything can be cut: a connection belongs to the time at which it was made.
    let born = control.borrow().generation;
    // A cut in either direction leaves a connection unmade; it may be made after the cut.
    if control.wait_for(|now| !now.manner.forward_cut && !now.manner.backward_cut).await.is_err() {
        return;
    }
    let Ok(far) = TcpStream::connect(target).await else { return };
    for socket in [&near, &far] {
        // What is passed on late is to be late because of us alone.
        if socket.set_nodelay(true).is_err() {
            return;
        }
    }
    let (near_addr, far_addr) = (SockRef::from(&near).try_clone(), SockRef::from(&far).try_clone());
    let seed = near.peer_addr().map_or(born, |peer| born ^ u64::from(peer.port()));
    // Not the owned halves, which say goodbye when they are dropped.
    let ((near_in, near_out), (far_in, far_out)) = (split(near), split(far));
    let forward =
        Pump { born, seed, control: control.clone(), is_cut: |manner| manner.forward_cut };
    let is_cut = |manner: &Manner| manner.backward_cut;
    let backward = Pump { born, seed: !seed, control: control.clone(), is_cut };
    // Either end may close one direction and go on reading the other.
    let pumps =
        async { tokio::join!(forward.run(near_in, far_out), backward.run(far_in, near_out)) };
    tokio::pin!(pumps);
    tokio::select! {
        // A reset that comes with the end of a cut is a reset: what was kept is lost.
        biased;
        _reset = control.wait_for(|now| now.generation > born && now.frozen_before <= born) => {
            // The sockets close with the pumps, after this: closing then sends a reset. If that
            // cannot be had, closing is all that can be done.
            for socket in [near_addr, far_addr].into_iter().flatten() {
                socket.set_linger(Some(Duration::ZERO)).ok();
            }
        }
        _both = &mut pumps => {}
    }
}

struct Pump {
    born: u64,
    seed: u64,
    control: watch::Receiver<Control>,
    is_cut: fn(&Manner) -> bool,
}

impl Pump {
    async fn run(mut self, mut from: ReadHalf<TcpStream>, mut to: WriteHalf<TcpStream>) {
        let mut chunk = vec![0; CHUNK];
        let mut random = Random::from_seed(self.seed);
        loop {
            self.open().await;
            let read = tokio::select! {
                read = from.read(&mut chunk) => read,
                // Cut or frozen meanwhile: what comes now is kept by the kernel.
                () = self.shut() => continue,
            };
            let Ok(length @ 1..) = read else { break };
            let delay = self.control.borrow().manner.delay_max;
            if !delay.is_zero() {
                let us = u64::try_from(delay.as_micros()).unwrap_or(u64::MAX);
                sleep(Duration::from_micros(random.below(us))).await;
            }
            self.open().await;
            if to.write_all(chunk.get(..length).unwrap_or_default()).await.is_err() {
                break;
            }
        }
        self.open().await;
        // Passes the end on. The other side may be gone already.
        to.shutdown().await.ok();
    }

    /// Completes when this direction lets something through.
    async fn open(&mut self) {
        let (born, is_cut) = (self.born, self.is_cut);
        let open = |now: &Control| now.frozen_before <= born && !is_cut(&now.manner);
        if self.control.wait_for(open).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    async fn shut(&self) {
        let (born, is_cut) = (self.born, self.is_cut);
        let shut = |now: &Control| now.frozen_before > born || is_cut(&now.manner);
        if self.control.clone().wait_for(shut).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read, Write};
    use std::net;

    use super::*;

    struct Ways {
        wires: Wires,
        ends: Ends,
        near: net::TcpStream,
        far: net::TcpStream,
        far_end: net::TcpListener,
        address: String,
    }

    fn ways() -> Ways {
        let far_end = net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut wires = Wires::default();
        let ends = Ends::new("a", "b");
        let address = wires.lay(ends.clone(), &far_end.local_addr().unwrap().to_string());
        let near = net::TcpStream::connect(&address).unwrap();
        let far = far_end.accept().unwrap().0;
        for socket in [&near, &far] {
            socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        }
        Ways { wires, ends, near, far, far_end, address }
    }

    fn say(mut to: &net::TcpStream, text: &str) {
        to.write_all(text.as_bytes()).unwrap();
    }

    fn hear(mut from: &net::TcpStream) -> Result<String, ErrorKind> {
        let mut bytes = [0; 2];
        match from.read_exact(&mut bytes) {
            Ok(()) => Ok(String::from_utf8(bytes.to_vec()).unwrap()),
            Err(error) => Err(error.kind()),
        }
    }

    #[test]
    fn what_is_cut_in_one_direction_arrives_after_the_cut_and_the_other_goes_on() {
        let Ways { wires, ends, near, far, .. } = ways();
        say(&near, "m1");
        assert_eq!(hear(&far), Ok("m1".to_owned()));
        wires.set(&ends, Manner { forward_cut: true, ..Manner::default() });
        say(&near, "m2");
        say(&far, "w1");
        assert_eq!(hear(&near), Ok("w1".to_owned()));
        far.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        assert_eq!(hear(&far), Err(ErrorKind::WouldBlock));
        far.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        wires.heal();
        assert_eq!(hear(&far), Ok("m2".to_owned()));
    }

    #[test]
    fn a_reset_reaches_both_ends_and_the_next_connection_works() {
        let Ways { wires, ends, near, far, far_end, address } = ways();
        wires.reset(&ends);
        assert_eq!(hear(&near), Err(ErrorKind::ConnectionReset));
        assert_eq!(hear(&far), Err(ErrorKind::ConnectionReset));
        let near = net::TcpStream::connect(&address).unwrap();
        let far = far_end.accept().unwrap().0;
        say(&near, "m1");
        assert_eq!(hear(&far), Ok("m1".to_owned()));
    }

    #[test]
    fn a_frozen_connection_says_nothing_more_and_the_next_one_works() {
        let Ways { wires, ends, near, far, far_end, address } = ways();
        wires.freeze(&ends);
        say(&near, "m1");
        far.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        assert_eq!(hear(&far), Err(ErrorKind::WouldBlock));
        let new = net::TcpStream::connect(&address).unwrap();
        let new_far = far_end.accept().unwrap().0;
        say(&new, "m2");
        assert_eq!(hear(&new_far), Ok("m2".to_owned()));
    }
}
