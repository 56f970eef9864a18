//! The table of gateways, and which of them the next client is sent to.
//!
//! Two gateways are drawn at random, and the one that is less full in proportion to what it can hold
//! is given (Mitzenmacher, "The Power of Two Choices"): close to the best choice, and unlike the best
//! one it does not send a storm of clients to a single gateway between two reports.
//!
//! # Invariants
//!
//! - A gateway that is full, draining, not ready, or silent for more than [`SILENCE_MAX`] is never given.
//! - Every client that was sent to a gateway counts as one connection there until the gateway's next
//!   report.
//! - A gateway is in the table once, as its newest link says; and a name has one gateway. Another
//!   process of that name is refused for as long as the first one reports, unless it is where the first
//!   one was: then it is the same gateway, started again.
//!
//! No socket, no clock, no chance of its own: time and random numbers are arguments.

use std::time::{Duration, Instant};

use proto::cluster::wire::LoadReport;

/// Gateways report every second.
pub(crate) const SILENCE_MAX: Duration = Duration::from_secs(5);

/// A gateway that has missed two reports may have been started again elsewhere: its name is free.
const NAME_KEPT: Duration = Duration::from_millis(2_500);

/// Where a report came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Source {
    /// The link; greater numbers are newer links.
    pub(crate) link: u64,
    /// The number of the start that the gateway's process is in.
    pub(crate) boot: u64,
}

/// What becomes of a report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It counts.
    Taken,
    /// It does not: a gateway of this name reports already, with that address.
    NameTaken(ClientAddress),
}

/// Where clients connect to a gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ClientAddress {
    pub(crate) host: String,
    /// A second one for the same.
    pub(crate) backup_host: Option<String>,
    pub(crate) port: u16,
    pub(crate) tls_port: Option<u16>,
}

/// To which gateway a client is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Choice<'a> {
    Given {
        /// Its `cluster.name`.
        name: &'a str,
        address: &'a ClientAddress,
    },
    /// There are gateways, but none has room.
    Full,
    /// There is no gateway that clients can log in on.
    Nowhere,
}

/// How much the gateways hold together, as they have reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Totals {
    pub(crate) gateways: usize,
    /// Those of the gateways that may be given.
    pub(crate) open: usize,
    /// Those of the gateways on which no user can log in, as they say themselves.
    pub(crate) not_ready: usize,
    pub(crate) connections: u64,
    pub(crate) connections_max: u64,
}

/// What the gateways have reported.
#[derive(Debug, Default)]
pub(crate) struct Gateways {
    gateways: Vec<Gateway>,
}

#[derive(Debug)]
struct Gateway {
    name: String,
    source: Source,
    address: ClientAddress,
    connections: u32,
    connections_max: u32,
    draining: bool,
    is_ready: bool,
    /// Clients sent there since the last report.
    given: u32,
    reported: Instant,
}

impl Gateways {
    /// Takes a report. An error says what is wrong with it.
    pub(crate) fn report(
        &mut self,
        report: LoadReport,
        source: Source,
        now: Instant,
    ) -> Result<Verdict, &'static str> {
        let address = ClientAddress::parse(&report)?;
        let gateway = Gateway {
            name: report.name,
            source,
            address,
            connections: report.connections,
            connections_max: report.connections_max,
            draining: report.draining,
            is_ready: report.not_ready.is_none(),
            given: 0,
            reported: now,
        };
        if let Some(known) = self.gateways.iter().find(|known| known.name == gateway.name) {
            if known.source.boot == source.boot && known.source.link > source.link {
                // It came on a link that has been replaced already.
                return Ok(Verdict::Taken);
            }
            if known.keeps_its_name_from(&gateway, now) {
                let address = known.address.clone();
                self.lost(source.link);
                return Ok(Verdict::NameTaken(address));
            }
        }
        self.gateways
            .retain(|other| other.source.link == source.link || other.name != gateway.name);
        match self.gateways.iter_mut().find(|other| other.source.link == source.link) {
            Some(known) => *known = gateway,
            None => self.gateways.push(gateway),
        }
        Ok(Verdict::Taken)
    }

    /// A link is down: the gateway that reported there is gone.
    pub(crate) fn lost(&mut self, link: u64) {
        self.gateways.retain(|gateway| gateway.source.link != link);
    }

    /// Forgets gateways that are silent.
    pub(crate) fn expire(&mut self, now: Instant) {
        self.gateways.retain(|gateway| !gateway.is_silent(now));
    }

    /// Chooses a gateway for a client. `random(n)` returns a number below `n`.
    pub(crate) fn choose(
        &mut self,
        now: Instant,
        mut random: impl FnMut(usize) -> usize,
    ) -> Choice<'_> {
        let open = self.gateways.iter().filter(|gateway| gateway.is_open(now)).count();
        let (one, other) = match open {
            0 => return self.why_none(now),
            1 => (0, 0),
            _ => {
                let (one, other) = (random(open), random(open - 1));
                // The second draw leaves the first gateway out.
                (one, if other < one { other } else { other + 1 })
            }
        };
        let index = self.less_full(self.nth_open(one, now), self.nth_open(other, now));
        match self.gateways.get_mut(index) {
            Some(gateway) => {
                gateway.given = gateway.given.saturating_add(1);
                Choice::Given { name: &gateway.name, address: &gateway.address }
            }
            None => Choice::Nowhere,
        }
    }

    /// How much the gateways hold together.
    pub(crate) fn totals(&self, now: Instant) -> Totals {
        let mut totals = Totals::default();
        for gateway in &self.gateways {
            totals.gateways += 1;
            totals.open += usize::from(gateway.is_open(now));
            totals.not_ready += usize::from(!gateway.is_ready);
            totals.connections += u64::from(gateway.connections);
            totals.connections_max += u64::from(gateway.connections_max);
        }
        totals
    }

    /// Whether there is a gateway that clients can log in on, full or not.
    pub(crate) fn is_any_ready(&self, now: Instant) -> bool {
        self.gateways
            .iter()
            .any(|gateway| gateway.is_ready && !gateway.draining && !gateway.is_silent(now))
    }

    /// Why no gateway is open.
    fn why_none(&self, now: Instant) -> Choice<'static> {
        if self.is_any_ready(now) { Choice::Full } else { Choice::Nowhere }
    }

    /// The index in the table of the open gateway number `number`, from 0.
    fn nth_open(&self, number: usize, now: Instant) -> usize {
        let mut open =
            self.gateways.iter().enumerate().filter(|(_index, gateway)| gateway.is_open(now));
        open.nth(number).map_or(usize::MAX, |(index, _entry)| index)
    }

    fn less_full(&self, one: usize, other: usize) -> usize {
        match (self.gateways.get(one), self.gateways.get(other)) {
            (Some(first), Some(second)) if second.is_less_full_than(first) => other,
            (None, _) => other,
            _ => one,
        }
    }
}

impl Gateway {
    fn is_silent(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.reported) > SILENCE_MAX
    }

    fn is_open(&self, now: Instant) -> bool {
        self.is_ready
            && !self.draining
            && self.expected() < u64::from(self.connections_max)
            && !self.is_silent(now)
    }

    /// Whether a report in this one's name comes from another gateway, and this one still lives.
    fn keeps_its_name_from(&self, other: &Self, now: Instant) -> bool {
        // Two processes cannot listen at one address. Of two that report it, the one with the newer link
        // is the one that runs.
        let is_restart = other.address == self.address && other.source.link > self.source.link;
        other.source.boot != self.source.boot
            && !is_restart
            && now.saturating_duration_since(self.reported) <= NAME_KEPT
    }

    /// Connections, and clients that are on their way.
    fn expected(&self) -> u64 {
        u64::from(self.connections) + u64::from(self.given)
    }

    /// In proportion to capacity. Both numbers of a product are below 2³³.
    fn is_less_full_than(&self, other: &Self) -> bool {
        let product = |part: &Self, whole: &Self| {
            u128::from(part.expected()) * u128::from(whole.connections_max)
        };
        product(self, other) < product(other, self)
    }
}

impl ClientAddress {
    fn parse(report: &LoadReport) -> Result<Self, &'static str> {
        let port = |number: u32| match u16::try_from(number) {
            Ok(port) if port != 0 => Ok(port),
            _ => Err("a port that is none"),
        };
        if report.host.is_empty() {
            return Err("no host");
        }
        Ok(Self {
            host: report.host.clone(),
            backup_host: report.backup_host.clone().filter(|host| !host.is_empty()),
            port: port(report.port)?,
            tls_port: report.tls_port.map(port).transpose()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn load(name: &str, connections: u32, connections_max: u32) -> LoadReport {
        LoadReport {
            name: name.to_owned(),
            host: format!("{name}.example"),
            backup_host: None,
            port: 8000,
            tls_port: None,
            connections,
            connections_max,
            draining: false,
            not_ready: None,
        }
    }

    /// A link of a gateway that was never started again.
    fn on(link: u64) -> Source {
        Source { link, boot: 1 }
    }

    /// Gateways with these loads, on links 1, 2, 3 ...
    fn table(now: Instant, reports: impl IntoIterator<Item = LoadReport>) -> Gateways {
        let mut gateways = Gateways::default();
        for (link, report) in (1..).zip(reports) {
            gateways.report(report, on(link), now).unwrap();
        }
        gateways
    }

    fn given(choice: Choice<'_>) -> Option<&str> {
        match choice {
            Choice::Given { name, .. } => Some(name),
            Choice::Full | Choice::Nowhere => None,
        }
    }

    /// Draws 0, 1, 2 … in turn.
    fn in_turn() -> impl FnMut(usize) -> usize {
        let mut next = 0;
        move |below| {
            next += 1;
            (next - 1) % below
        }
    }

    #[test]
    fn without_gateways_there_is_nowhere_to_go() {
        let now = Instant::now();
        assert_eq!(Gateways::default().choose(now, in_turn()), Choice::Nowhere);
    }

    #[test]
    fn of_two_the_one_that_is_less_full_in_proportion_is_given() {
        let now = Instant::now();
        let mut gateways = table(now, [load("small", 50, 100), load("large", 400, 1000)]);
        assert_eq!(given(gateways.choose(now, |_below| 0)), Some("large"));
        let mut gateways = table(now, [load("small", 30, 100), load("large", 400, 1000)]);
        assert_eq!(given(gateways.choose(now, |_below| 0)), Some("small"));
    }

    #[test]
    fn the_two_that_are_drawn_are_never_the_same() {
        let now = Instant::now();
        for draw in 0..3 {
            let mut gateways =
                table(now, [load("a", 9, 10), load("b", 9, 10), load("empty", 0, 10)]);
            let mut draws = [2, draw % 2].into_iter();
            assert_eq!(given(gateways.choose(now, |_| draws.next().unwrap())), Some("empty"));
        }
    }

    #[test]
    fn what_was_given_counts_until_the_next_report() {
        let now = Instant::now();
        let mut gateways = table(now, [load("only", 8, 10)]);
        assert_eq!(given(gateways.choose(now, in_turn())), Some("only"));
        assert_eq!(given(gateways.choose(now, in_turn())), Some("only"));
        assert_eq!(gateways.choose(now, in_turn()), Choice::Full);
        gateways.report(load("only", 9, 10), on(1), now).unwrap();
        assert_eq!(given(gateways.choose(now, in_turn())), Some("only"));
        assert_eq!(gateways.choose(now, in_turn()), Choice::Full);
    }

    #[test]
    fn a_storm_between_two_reports_is_spread() {
        let now = Instant::now();
        let mut gateways = table(now, (0..10).map(|n| load(&format!("g{n}"), 0, 1000)));
        let mut seed = 1_u64;
        let mut random = |below: usize| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            usize::try_from(seed >> 33).unwrap() % below
        };
        let mut counts = BTreeMap::new();
        for _client in 0..1000 {
            let name = given(gateways.choose(now, &mut random)).unwrap().to_owned();
            *counts.entry(name).or_insert(0) += 1;
        }
        assert!(counts.values().all(|count| (90..=110).contains(count)), "{counts:?}");
    }

    #[test]
    fn a_full_gateway_is_not_given() {
        let now = Instant::now();
        let mut gateways = table(now, [load("full", 10, 10), load("none", 0, 0)]);
        assert_eq!(gateways.choose(now, in_turn()), Choice::Full);
        gateways.report(load("free", 0, 10), on(9), now).unwrap();
        assert_eq!(given(gateways.choose(now, in_turn())), Some("free"));
    }

    #[test]
    fn a_draining_gateway_is_as_good_as_gone() {
        let now = Instant::now();
        let mut gateways = table(now, [LoadReport { draining: true, ..load("leaving", 0, 10) }]);
        assert_eq!(gateways.choose(now, in_turn()), Choice::Nowhere);
    }

    #[test]
    fn a_gateway_that_is_not_ready_is_never_given_and_is_no_gateway_when_it_is_the_only_one() {
        let now = Instant::now();
        let unready =
            |name| LoadReport { not_ready: Some("db_proxy".to_owned()), ..load(name, 0, 1000) };
        let mut gateways = table(now, [unready("cut off"), load("ready", 0, 1000)]);
        for _client in 0..50 {
            assert_eq!(given(gateways.choose(now, in_turn())), Some("ready"));
        }
        assert_eq!(gateways.totals(now).not_ready, 1);
        gateways.report(unready("ready"), on(2), now).unwrap();
        assert_eq!(gateways.choose(now, in_turn()), Choice::Nowhere);
        gateways.report(load("cut off", 0, 1000), on(1), now).unwrap();
        assert_eq!(given(gateways.choose(now, in_turn())), Some("cut off"));
    }

    #[test]
    fn a_full_one_beside_one_that_is_not_ready_is_full() {
        let now = Instant::now();
        let unready = LoadReport { not_ready: Some("db_proxy".to_owned()), ..load("a", 0, 10) };
        let mut gateways = table(now, [unready, load("full", 10, 10)]);
        assert_eq!(gateways.choose(now, in_turn()), Choice::Full);
    }

    /// A report as of another start of a gateway called `a`, at that port.
    fn second(port: u32) -> LoadReport {
        LoadReport { port, ..load("a", 0, 10) }
    }

    #[test]
    fn of_two_gateways_of_one_name_the_one_that_is_there_stays() {
        let start = Instant::now();
        let at = |s| start + Duration::from_secs(s);
        let mut gateways = table(start, [load("a", 3, 10)]);
        let other = Source { link: 2, boot: 2 };
        for s in 0..5 {
            gateways.report(load("a", 3, 10), on(1), at(s)).unwrap();
            let refused = gateways.report(second(8001), other, at(s)).unwrap();
            assert!(matches!(refused, Verdict::NameTaken(address) if address.port == 8000));
            assert_eq!(gateways.totals(at(s)).connections, 3);
        }
        gateways.lost(1);
        assert_eq!(gateways.report(second(8001), other, at(6)), Ok(Verdict::Taken));
        let back = gateways.report(load("a", 3, 10), Source { link: 3, boot: 1 }, at(6)).unwrap();
        assert!(matches!(back, Verdict::NameTaken(address) if address.port == 8001));
    }

    #[test]
    fn a_gateway_that_was_started_again_has_its_name_at_once_where_it_was_and_soon_elsewhere() {
        let start = Instant::now();
        let mut gateways = table(start, [load("a", 3, 10)]);
        // The old link is half dead, which has not shown yet.
        let again = Source { link: 2, boot: 2 };
        assert_eq!(gateways.report(second(8000), again, start), Ok(Verdict::Taken));
        let late = gateways.report(load("a", 3, 10), on(1), start).unwrap();
        assert!(matches!(late, Verdict::NameTaken(_)), "the process that has ended");
        gateways.lost(1);
        assert_eq!(gateways.totals(start).gateways, 1);

        let moved = Source { link: 3, boot: 3 };
        let refused = gateways.report(second(8001), moved, start + NAME_KEPT).unwrap();
        assert!(matches!(refused, Verdict::NameTaken(_)));
        let later = start + NAME_KEPT + Duration::from_millis(1);
        assert_eq!(gateways.report(second(8001), moved, later), Ok(Verdict::Taken));
    }

    #[test]
    fn a_gateway_that_takes_the_name_of_another_loses_its_own_entry() {
        let now = Instant::now();
        let mut gateways = table(now, [load("a", 0, 10)]);
        let other = Source { link: 2, boot: 2 };
        gateways.report(LoadReport { port: 8001, ..load("b", 0, 10) }, other, now).unwrap();
        assert!(matches!(gateways.report(second(8001), other, now), Ok(Verdict::NameTaken(_))));
        assert_eq!(gateways.totals(now).gateways, 1);
    }

    #[test]
    fn a_silent_gateway_is_not_given_until_it_reports_again() {
        let start = Instant::now();
        let mut gateways = table(start, [load("a", 0, 10)]);
        assert_eq!(given(gateways.choose(start + SILENCE_MAX, in_turn())), Some("a"));
        let later = start + SILENCE_MAX + Duration::from_millis(1);
        assert_eq!(gateways.choose(later, in_turn()), Choice::Nowhere);
        assert_eq!(gateways.totals(later).gateways, 1);
        gateways.expire(later);
        assert_eq!(gateways.totals(later), Totals::default());
        gateways.report(load("a", 0, 10), on(1), later).unwrap();
        assert_eq!(given(gateways.choose(later, in_turn())), Some("a"));
    }

    #[test]
    fn a_lost_link_takes_its_gateway_with_it_but_not_the_one_that_came_back() {
        let now = Instant::now();
        let mut gateways = table(now, [load("a", 0, 10)]);
        gateways.report(load("a", 3, 10), on(2), now).unwrap();
        assert_eq!(gateways.totals(now).gateways, 1, "one gateway, one entry");
        gateways.report(load("a", 9, 10), on(1), now).unwrap();
        assert_eq!(gateways.totals(now).connections, 3, "an older link has nothing to say");
        gateways.lost(1);
        assert_eq!(given(gateways.choose(now, in_turn())), Some("a"));
        gateways.lost(2);
        assert_eq!(gateways.choose(now, in_turn()), Choice::Nowhere);
    }

    #[test]
    fn a_gateway_that_changes_its_name_has_one_entry() {
        let now = Instant::now();
        let mut gateways = table(now, [load("a", 0, 10)]);
        gateways.report(load("b", 0, 10), on(1), now).unwrap();
        assert_eq!(gateways.totals(now).gateways, 1);
        assert_eq!(given(gateways.choose(now, in_turn())), Some("b"));
    }

    #[test]
    fn a_report_that_no_client_could_use_is_refused() {
        let now = Instant::now();
        let mut gateways = Gateways::default();
        for report in [
            LoadReport { host: String::new(), ..load("a", 0, 10) },
            LoadReport { port: 0, ..load("a", 0, 10) },
            LoadReport { port: 65_536, ..load("a", 0, 10) },
            LoadReport { tls_port: Some(0), ..load("a", 0, 10) },
        ] {
            gateways.report(report, on(1), now).unwrap_err();
        }
        assert_eq!(gateways.totals(now), Totals::default());
    }

    proptest! {
        #[test]
        fn whatever_is_given_is_open_and_something_is_given_if_anything_is(
            reports in prop::collection::vec((0..6_u32, 0..6_u32, 0..3_u8, 0..10_u64), 0..8),
            draws in prop::collection::vec(any::<usize>(), 2),
        ) {
            let start = Instant::now();
            let now = start + Duration::from_secs(10);
            let mut gateways = Gateways::default();
            let mut open = Vec::new();
            for (link, (connections, max, state, at)) in (1..).zip(reports) {
                let name = format!("g{link}");
                let draining = state == 1;
                let not_ready = (state == 2).then(|| "db_proxy".to_owned());
                let report = LoadReport { draining, not_ready, ..load(&name, connections, max) };
                gateways.report(report, on(link), start + Duration::from_secs(at)).unwrap();
                if connections < max && state == 0 && at >= 5 {
                    open.push(name);
                }
            }
            let mut draws = draws.into_iter();
            let choice = gateways.choose(now, |below| draws.next().unwrap() % below);
            match given(choice) {
                Some(name) => prop_assert!(open.iter().any(|open| open == name)),
                None => prop_assert!(open.is_empty()),
            }
        }
    }
}
