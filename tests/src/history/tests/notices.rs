//! Small histories made by hand: times, what comes on connections, marks, seats and notices, each rule
//! at its edges.

use super::rules::{Run, mid, pair, row};
use crate::history::check::Rule;
use crate::history::event::{
    Change, Class, Connection, Conv, Delivery, Event, Phase, Progress, Row, What,
};

/// Half of what devices may take to hear of a change, in microseconds.
const HALF_US: u64 = 2_500_000;

fn timed(msg_id: u32, time: u32) -> Row {
    Row { time: Some(time), ..row(msg_id, msg_id) }
}

fn wire(user: u32, msg_id: u32) -> What {
    What::Wire(Delivery { device: 1, ..Run::delivery(user, msg_id, msg_id) })
}

const fn session_of(user: u32, device: u32, state: Connection, class: Class) -> What {
    What::Session { user, device, state, class: Some(class) }
}

/// Four messages that are stored, and then these events.
fn run(whats: &[What]) -> Run {
    let mut run = Run::new();
    run.all_stored();
    for what in whats {
        run.add(what.clone());
    }
    run
}

#[test]
fn a_message_has_one_time_and_times_do_not_go_back() {
    let stored = |times: [u32; 4]| What::Stored {
        conv: pair(),
        from: 1,
        rows: times.into_iter().zip(1..).map(|(time, msg_id)| timed(msg_id, time)).collect(),
    };
    Run::new().add(stored([7, 7, 8, 8])).breaks(&[]);
    Run::new().add(stored([7, 8, 7, 8])).breaks(&[Rule::H4]);
    let told = |msg_id, time| {
        let time = Some(time);
        What::Push(Delivery { time, ..Run::delivery(2, msg_id, msg_id) })
    };
    Run::new().add(told(2, 7)).add(stored([7, 7, 8, 8])).breaks(&[]);
    Run::new().add(told(2, 6)).add(stored([5, 7, 8, 8])).breaks(&[Rule::H3]);
    // Answers tell it too.
    let mut run = Run::default();
    run.invoke(1).add(What::Ok { mid: mid(1), msg_id: 1, time: Some(8) });
    run.add(What::Stored { conv: pair(), from: 1, rows: vec![timed(1, 7)] }).breaks(&[Rule::H3]);
}

#[test]
fn what_comes_on_a_connection_has_no_gap_and_is_not_its_own() {
    // User 2 says the odd numbers on device 1, and is answered; the even ones come.
    let session = session_of(2, 1, Connection::Connected, Class::Pc);
    let whole = |run: &mut Run| {
        run.all_stored().add(session.clone()).add(wire(2, 2)).add(wire(2, 4)).clone()
    };
    whole(&mut Run::new()).breaks(&[]);
    // User 1 said the even ones.
    let other = session_of(1, 1, Connection::Connected, Class::Pc);
    let hears = |numbers: &[u32]| {
        let mut run = Run::new();
        run.all_stored().add(other.clone());
        for number in numbers {
            run.add(wire(1, *number));
        }
        run
    };
    hears(&[1, 3]).breaks(&[]);
    hears(&[3, 1]).breaks(&[Rule::H7]);
    hears(&[1, 1]).breaks(&[Rule::H7]);
    hears(&[3]).breaks(&[]); // What came before is read.
    // Three is missing where five follows.
    let five = |session: u32| {
        let mut run = Run::default();
        for number in 1..=5 {
            if number == session {
                run.add(other.clone());
            }
            run.invoke(number).ok(number, number);
        }
        run.stored(&[(1, 1), (2, 2), (3, 3), (4, 4), (5, 5)])
            .add(wire(1, 1))
            .add(wire(1, 5))
            .clone()
    };
    five(0).breaks(&[Rule::H7]);
    five(3).breaks(&[Rule::H7]);
    five(4).breaks(&[]); // It was said before the login, so the client asks for it.
    let mut run = five(3);
    // On the next connection it may be left out.
    let last = run.events.len() - 1;
    let event = Event { what: other.clone(), ..run.events[last].clone() };
    run.events.insert(last, event);
    run.breaks(&[]);

    // Its own message comes to the connection that said it, or to a later one.
    let own = |session_first: bool| {
        let mut run = Run::default();
        if session_first {
            run.add(session.clone());
        }
        run.invoke(1).ok(1, 1);
        if !session_first {
            run.add(session.clone());
        }
        run.add(wire(2, 1)).stored(&[(1, 1)]).clone()
    };
    own(true).breaks(&[Rule::H7]);
    own(false).breaks(&[]);
    Run::new().all_stored().add(wire(3, 1)).breaks(&[Rule::H8]);
}

#[test]
fn marks_are_told_as_they_were_set_and_once() {
    let mark = |upto| What::Mark { user: 1, conv: pair(), upto, phase: Progress::Invoke };
    let told = |upto| What::MarkTold { user: 1, device: 2, conv: pair(), upto };
    run(&[mark(2), told(2), mark(4), told(4)]).breaks(&[]);
    run(&[mark(2), mark(4), told(4)]).breaks(&[]); // One may stand for another.
    run(&[mark(2), told(3)]).breaks(&[Rule::H10]);
    run(&[told(2), mark(2)]).breaks(&[Rule::H10]);
    run(&[mark(2), mark(4), told(4), told(2)]).breaks(&[]);
    run(&[mark(2), told(2), told(2)]).breaks(&[Rule::H10]);
    // A device that is connected again may be told again.
    let again = session_of(1, 2, Connection::Connected, Class::Mobile);
    run(&[mark(2), told(2), again, told(2)]).breaks(&[]);
    // Another user's marks are not this one's.
    let of_other = What::Mark { user: 2, conv: pair(), upto: 2, phase: Progress::Invoke };
    run(&[of_other, told(2)]).breaks(&[Rule::H10]);
}

#[test]
fn unread_counts_lie_between_what_was_said_and_what_is_kept() {
    let mark = |upto, phase| What::Mark { user: 1, conv: pair(), upto, phase };
    let derived = |unread| What::Derived { user: 1, conv: pair(), unread, head: 4 };
    let run = |unread| {
        let mut run = Run::new();
        run.all_stored().add(mark(1, Progress::Ok)).add(mark(3, Progress::Invoke));
        run.add(derived(unread)).clone()
    };
    // User 2 said 1 and 3.
    run(0).breaks(&[]);
    run(1).breaks(&[]);
    run(2).breaks(&[Rule::H10]);
}

#[test]
fn a_seat_is_that_of_the_device_which_came_last() {
    use Connection::{Connected, Connecting, Disconnected};
    let of = |device, state| session_of(1, device, state, Class::Mobile);
    let kicked = |device| What::Kicked { user: 1, device };
    let first = [of(2, Connecting), of(2, Connected)];
    let second = [of(3, Connecting), of(3, Connected)];
    let both = [first.clone(), second].concat();
    run(&first).breaks(&[]);
    run(&both).breaks(&[Rule::H13]);
    run(&[&both[..], &[kicked(2)]].concat()).breaks(&[]);
    run(&[&both[..], &[of(2, Disconnected)]].concat()).breaks(&[]);
    // The later one must not be the one that goes.
    run(&[&both[..], &[kicked(3)]].concat()).breaks(&[Rule::H13]);
    run(&[&first[..], &[kicked(2)]].concat()).breaks(&[Rule::H13]);
    // Logins that overlap may come in either order.
    let over = [of(3, Connecting), of(2, Connecting), of(2, Connected), of(3, Connected)];
    run(&[&over[..], &[kicked(2)]].concat()).breaks(&[]);
    run(&[&over[..], &[kicked(3)]].concat()).breaks(&[]);
    // A PC and a phone have a seat each.
    let pc = session_of(1, 1, Connected, Class::Pc);
    run(&[&first[..], &[pc]].concat()).breaks(&[]);
    // Another user's login is no reason.
    let other = session_of(2, 2, Connected, Class::Mobile);
    run(&[&first[..], &[other, kicked(2)]].concat()).breaks(&[Rule::H13]);
}

/// Moves an event and all that follow.
fn wait(run: &mut Run, from: usize, us: u64) {
    for event in &mut run.events[from..] {
        event.us += us;
    }
}

#[test]
fn members_are_told_of_each_change_once_and_in_order() {
    let conv = Conv::group(3);
    let change = |change, phase| What::Change { conv, user: 9, change, phase, by: None };
    let told = |change| What::MembersTold { user: 2, device: 1, conv, change, who: vec![9] };
    let run = |notices: &[Change], stays: bool| {
        let mut run = Run::new();
        run.all_stored().add(What::Member { conv, user: 2, join: 1, leave: None });
        run.add(session_of(2, 1, Connection::Connected, Class::Pc));
        for made in [Change::Add, Change::Remove, Change::Add] {
            run.add(change(made, Progress::Invoke)).add(change(made, Progress::Ok));
            // Everything that is told is told in time.
        }
        for notice in notices {
            run.add(told(*notice));
        }
        if !stays {
            run.add(session_of(2, 1, Connection::Disconnected, Class::Pc));
        }
        run
    };
    run(&[Change::Add, Change::Remove, Change::Add], true).breaks(&[]);
    run(&[Change::Add, Change::Add], true).breaks(&[Rule::H14]);
    run(&[Change::Add, Change::Remove], true).breaks(&[Rule::H14]);
    run(&[Change::Remove, Change::Add], true).breaks(&[Rule::H14]);
    // A device that leaves soon need not be told, and one that listens to nothing is not checked.
    run(&[Change::Add, Change::Remove], false).breaks(&[]);
    run(&[], true).breaks(&[]);
    // The device that asks gets an answer instead of a notice.
    let mut asker = run(&[Change::Add, Change::Remove], true);
    for event in &mut asker.events {
        if let What::Change { by, .. } = &mut event.what {
            *by = Some((2, 1));
        }
    }
    asker.breaks(&[]);
    // Nor is it told of what it asks for between two notices.
    let mut own = run(&[Change::Remove], true);
    own.add(change(Change::Add, Progress::Invoke)).add(told(Change::Remove));
    own.breaks(&[Rule::H14]);
    for event in &mut own.events {
        if let What::Change { by, .. } = &mut event.what {
            *by = Some((2, 1));
        }
    }
    own.breaks(&[]);
    // A device that leaves late must have been told.
    let mut late = run(&[Change::Add, Change::Remove], false);
    let last = late.events.len() - 1;
    wait(&mut late, last, 2 * HALF_US);
    late.breaks(&[Rule::H14]);

    // Nothing of the kind was asked for.
    let mut run = Run::new();
    run.all_stored().add(told(Change::Add)).breaks(&[Rule::H14]);
}

#[test]
fn what_is_told_last_of_a_user_is_true_once_it_had_the_time() {
    use Connection::{Connected, Disconnected};
    let pc = |user, state| session_of(user, 1, state, Class::Pc);
    let told = |online| What::Presence { user: 1, device: 1, who: 2, online };
    let run = |whats: &[What], waited_us: u64| {
        let mut run = Run::new();
        run.all_stored().add(pc(1, Connected));
        for what in whats {
            run.add(what.clone());
        }
        let last = run.events.len();
        run.add(What::Final { user: 1, device: 1, conv: pair(), has: vec![(1, 4)] });
        wait(&mut run, last, waited_us);
        run
    };
    let soon = HALF_US;
    let late = 2 * HALF_US;
    run(&[pc(2, Connected), told(true)], late).breaks(&[]);
    run(&[pc(2, Connected), told(true), pc(2, Disconnected)], late).breaks(&[Rule::H14]);
    run(&[pc(2, Connected), told(true), pc(2, Disconnected)], soon).breaks(&[]);
    run(&[pc(2, Connected), pc(2, Disconnected), told(true)], late).breaks(&[Rule::H14]);
    run(&[pc(2, Connected), pc(2, Disconnected), told(true), told(false)], late).breaks(&[]);
    // What happens during a fault need not be told to any device.
    let fault = |phase| What::Nemesis {
        what: "cut".to_owned(),
        target: "a link".to_owned(),
        phase,
        fired: 1,
    };
    let hurt =
        [pc(2, Connected), told(true), fault(Phase::Start), pc(2, Disconnected), fault(Phase::End)];
    run(&hurt, late).breaks(&[]);
    // A phone does not make a user's PC online.
    let phone = session_of(2, 2, Connected, Class::Mobile);
    run(&[pc(2, Connected), pc(2, Disconnected), phone, told(true)], late).breaks(&[Rule::H14]);
    // A device that watched on an earlier connection knows nothing on this one.
    run(&[pc(2, Connected), told(true), pc(1, Connected), pc(2, Disconnected)], late).breaks(&[]);
}
