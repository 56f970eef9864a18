//! Answers of several owners, each about its own part, made into the one that a single owner would
//! have given.
//!
//! Pure.
//!
//! # Invariants
//!
//! - What is merged is complete: an answer is missing only if there is none as a whole.
//! - The result fits a frame to a client, by the rules by which one owner makes its own fit
//!   ([`proto::lists`]). What does not fit is in its `rest`: nothing of any owner's is left out.

use std::cmp::Reverse;
use std::collections::HashMap;

use prost::{DecodeError, Message};
use proto::client::{
    GroupInfo, GroupInfoReply, GroupInfoRequest, GroupVersion, NormalGroupsReply, RecentSession,
    RecentSessionsReply, UnreadCountReply, UnreadSession,
};
use proto::cluster::wire::{Answer, Ask, AskStatus, Rest};
use proto::ids::{ConversationId, UserId};
use proto::lists::{ENTRIES_MAX, NORMAL_GROUPS_MAX, Placeholders, Room, SESSIONS_MAX, rest_after};
use proto::{Command, MergedCommand};

/// Makes one answer of several. An answer that is none makes the whole none.
pub fn merge(
    command: MergedCommand,
    ask: &Ask,
    mut answers: Vec<Answer>,
    placeholders: &Placeholders,
) -> Answer {
    if answers.len() == 1
        && let Some(only) = answers.pop()
    {
        return only;
    }
    let all_are = |status| answers.iter().all(|answer| answer.status() == status);
    if !all_are(AskStatus::Answered) {
        let status =
            if all_are(AskStatus::Ignored) { AskStatus::Ignored } else { AskStatus::Unavailable };
        return Answer { status: status.into(), ..Answer::default() };
    }
    let merged = match command {
        MergedCommand::UnreadCountRequest => unread(ask, &answers, placeholders),
        MergedCommand::RecentSessionsRequest => recent(ask.user, &answers, placeholders),
        MergedCommand::NormalGroupsRequest => normal_groups(ask.user, &answers),
        MergedCommand::GroupInfoRequest => group_info(ask, &answers),
    };
    merged.unwrap_or_else(|Unmergeable| Answer {
        status: AskStatus::Unavailable.into(),
        ..Answer::default()
    })
}

/// An answer is not of the form that it should be.
#[derive(Debug, PartialEq, Eq)]
struct Unmergeable;

impl From<DecodeError> for Unmergeable {
    fn from(_unreadable: DecodeError) -> Self {
        Self
    }
}

fn unread(
    ask: &Ask,
    answers: &[Answer],
    placeholders: &Placeholders,
) -> Result<Answer, Unmergeable> {
    let mut dated: Vec<((u64, u64), UnreadSession)> = Vec::new();
    let mut total_count = 0_u32;
    for answer in answers {
        let reply: UnreadCountReply = decode(answer)?;
        total_count = total_count.saturating_add(reply.total_count);
        let placed = with_times(answer, reply.sessions)?.map(|(ms, session)| {
            let (kind, number) = (session.session_type, session.session_id);
            let id = ConversationId::of_session(UserId(ask.user), kind, number);
            ((ms, id.map_or(0, ConversationId::number)), session)
        });
        dated.extend(placed);
    }
    // What an owner has not told is below all that it has, which is as many as fit.
    dated.sort_unstable_by_key(|(place, _session)| Reverse(*place));
    let is_cut = dated.len() > ENTRIES_MAX || answers.iter().any(|answer| answer.rest.is_some());
    dated.truncate(ENTRIES_MAX);
    let ends = dated.first().zip(dated.last()).filter(|_ends| is_cut);
    let rest = ends.map(|((first, _), (last, _))| rest_after(*first, *last, ask.rest.as_ref()));
    let mut sessions: Vec<UnreadSession> =
        dated.into_iter().map(|(_place, session)| session).collect();
    let mut room = Room::of_sessions(sessions.len());
    for session in &mut sessions {
        room.fit(placeholders, session.latest_msg_type, &mut session.latest_msg_data);
    }
    let user_id = ask.user;
    let reply = UnreadCountReply { user_id, total_count, sessions, attach_data: None };
    Ok(Answer { rest, ..answered(Command::UnreadCountReply, &reply) })
}

fn recent(
    user_id: u32,
    answers: &[Answer],
    placeholders: &Placeholders,
) -> Result<Answer, Unmergeable> {
    let mut dated: Vec<(u64, RecentSession)> = Vec::new();
    for answer in answers {
        let reply: RecentSessionsReply = decode(answer)?;
        dated.extend(with_times(answer, reply.sessions)?);
    }
    let mut sessions = newest_first(dated, SESSIONS_MAX);
    let mut room = Room::of_sessions(sessions.len());
    for session in &mut sessions {
        room.fit(placeholders, session.latest_msg_type, &mut session.latest_msg_data);
    }
    let reply = RecentSessionsReply { user_id, sessions, attach_data: None };
    Ok(answered(Command::RecentSessionsReply, &reply))
}

fn normal_groups(user_id: u32, answers: &[Answer]) -> Result<Answer, Unmergeable> {
    let mut groups = Vec::new();
    for answer in answers {
        let reply: NormalGroupsReply = decode(answer)?;
        groups.extend(reply.groups);
    }
    groups.sort_unstable_by_key(|group: &GroupVersion| group.group_id);
    // What an owner has not told begins at a group of its own.
    let of_owners = answers.iter().filter_map(|answer| answer.rest.as_ref()?.id);
    let of_these = groups.get(NORMAL_GROUPS_MAX).map(|next| next.group_id);
    let next = of_owners.chain(of_these).min();
    groups.retain(|group| next.is_none_or(|next| group.group_id < next));
    let rest = next.map(|next| Rest { id: Some(next), ..Rest::default() });
    let reply = NormalGroupsReply { user_id, groups, attach_data: None };
    Ok(Answer { rest, ..answered(Command::NormalGroupsReply, &reply) })
}

/// The groups in the order in which they were asked for, as far as they fit a frame and all owners have
/// come. The first of an owner's may have been cut to fit alone; it fits here only if it is the first
/// of all.
fn group_info(ask: &Ask, answers: &[Answer]) -> Result<Answer, Unmergeable> {
    let request = GroupInfoRequest::decode(ask.body.clone())?;
    let from = ask.rest.as_ref().map_or(0, |rest| rest.id() as usize);
    let of_owners = answers.iter().filter_map(|answer| answer.rest.as_ref()?.id);
    let mut next = of_owners.min().map_or(request.groups.len(), |next| next as usize);
    let mut described: HashMap<u32, GroupInfo> = HashMap::new();
    for answer in answers {
        let reply: GroupInfoReply = decode(answer)?;
        described.extend(reply.groups.into_iter().map(|group| (group.group_id, group)));
    }
    let mut room = Room::of_records();
    let mut groups = Vec::new();
    for (at, asked) in request.groups.iter().enumerate().take(next).skip(from) {
        let Some(info) = described.remove(&asked.group_id) else { continue };
        if !room.take_record(&info) {
            next = at;
            break;
        }
        groups.push(info);
    }
    let rest = (next < request.groups.len())
        .then(|| Rest { id: u32::try_from(next).ok(), ..Rest::default() });
    let reply = GroupInfoReply { user_id: ask.user, groups, attach_data: None };
    Ok(Answer { rest, ..answered(Command::GroupInfoReply, &reply) })
}

fn decode<M: Message + Default>(answer: &Answer) -> Result<M, Unmergeable> {
    Ok(M::decode(answer.body.clone().unwrap_or_default())?)
}

/// Sessions, each with the time of its newest message.
fn with_times<T>(
    answer: &Answer,
    sessions: Vec<T>,
) -> Result<impl Iterator<Item = (u64, T)>, Unmergeable> {
    if answer.newest_ms.len() != sessions.len() {
        return Err(Unmergeable);
    }
    Ok(answer.newest_ms.iter().copied().zip(sessions))
}

fn newest_first<T>(mut dated: Vec<(u64, T)>, at_most: usize) -> Vec<T> {
    dated.sort_by_key(|(ms, _session)| Reverse(*ms));
    dated.truncate(at_most);
    dated.into_iter().map(|(_ms, session)| session).collect()
}

fn answered(command: Command, reply: &impl Message) -> Answer {
    Answer {
        status: AskStatus::Answered.into(),
        command: Some(u32::from(command.number())),
        body: Some(reply.encode_to_vec().into()),
        ..Answer::default()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proto::client::{GroupType, MessageType, SessionStatus, SessionType};
    use proto::limits::{HEADER_LEN, LIMIT_TO_CLIENT};
    use proto::text;

    use super::*;

    const USER: u32 = 5;

    fn text_entry(session_id: u32, len: usize) -> UnreadSession {
        UnreadSession {
            session_id,
            session_type: SessionType::Single.into(),
            unread_count: 1,
            latest_msg_id: u32::MAX,
            latest_msg_data: vec![b'x'; len].into(),
            latest_msg_type: MessageType::SingleText.into(),
            latest_msg_from: u32::MAX,
        }
    }

    fn unread_answer(entries: &[(u64, usize)]) -> Answer {
        let sessions: Vec<UnreadSession> =
            entries.iter().map(|&(ms, len)| text_entry(u32::try_from(ms).unwrap(), len)).collect();
        let total_count = u32::try_from(sessions.len()).unwrap() + 10;
        let reply = UnreadCountReply { total_count, sessions, ..Default::default() };
        Answer {
            newest_ms: entries.iter().map(|(ms, _len)| *ms).collect(),
            ..answered(Command::UnreadCountReply, &reply)
        }
    }

    fn asked(rest: Option<Rest>) -> Ask {
        Ask { user: USER, rest, ..Ask::default() }
    }

    fn merged(command: MergedCommand, answers: Vec<Answer>) -> Answer {
        merge(command, &asked(None), answers, &Placeholders::default())
    }

    fn read<M: Message + Default>(answer: &Answer) -> M {
        assert_eq!(answer.status(), AskStatus::Answered);
        let body = answer.body.clone().unwrap();
        assert!(HEADER_LEN + body.len() <= LIMIT_TO_CLIENT, "{} bytes", body.len());
        M::decode(body).unwrap()
    }

    #[test]
    fn sessions_of_all_owners_stand_in_the_order_of_their_newest_messages() {
        let one = unread_answer(&[(9, 40), (4, 40)]);
        let other = unread_answer(&[(7, 40), (2, 40)]);
        let answer = merged(MergedCommand::UnreadCountRequest, vec![one, other]);
        assert_eq!(answer.command, Some(u32::from(Command::UnreadCountReply.number())));
        let reply: UnreadCountReply = read(&answer);
        let ids: Vec<u32> = reply.sessions.iter().map(|session| session.session_id).collect();
        assert_eq!((reply.user_id, reply.total_count), (USER, 24));
        assert_eq!(ids, [9, 7, 4, 2]);
    }

    #[test]
    fn texts_that_do_not_fit_are_replaced_and_voice_stays() {
        let long = 150_000;
        let one = unread_answer(&[(9, long), (7, long)]);
        let mut other = unread_answer(&[(8, long), (6, 100)]);
        let mut reply: UnreadCountReply = read(&other);
        let mut voice = text_entry(5, 0);
        voice.latest_msg_data = text::encrypt("[语音]");
        voice.latest_msg_type = MessageType::GroupVoice.into();
        reply.sessions.push(voice);
        other.body = Some(reply.encode_to_vec().into());
        other.newest_ms.push(5);
        let reply: UnreadCountReply =
            read(&merged(MergedCommand::UnreadCountRequest, vec![one, other]));
        let lens: Vec<usize> = reply.sessions.iter().map(|one| one.latest_msg_data.len()).collect();
        let replaced = text::encrypt("[语音]").len();
        assert_eq!(lens, [long, long, replaced, 100, replaced]);
    }

    #[test]
    fn of_more_sessions_than_fit_a_frame_the_newest_stay() {
        let ms = |from: u64| (0..4_000).map(move |n| (10_000 - 2 * n - from, 2_000));
        let (one, other) = (ms(0).collect::<Vec<_>>(), ms(1).collect::<Vec<_>>());
        let answers = vec![unread_answer(&one), unread_answer(&other)];
        let answer = merged(MergedCommand::UnreadCountRequest, answers);
        let reply: UnreadCountReply = read(&answer);
        assert_eq!(reply.sessions.len(), ENTRIES_MAX);
        assert!(reply.sessions.is_sorted_by_key(|session| Reverse(session.session_id)));
        assert_eq!(reply.total_count, 8_020, "all of them are counted");
        let last = reply.sessions.last().map(|session| u64::from(session.session_id));
        assert_eq!(
            answer.rest.map(|rest| (rest.below_ms, rest.above_ms)),
            Some((last, Some(10_000)))
        );
    }

    #[test]
    fn the_recent_sessions_are_a_hundred_at_most() {
        let answer = |from: u64| {
            let ms: Vec<u64> = (0..80).map(|n| 1_000 - 2 * n - from).collect();
            let session = |&ms: &u64| RecentSession {
                session_id: u32::try_from(ms).unwrap(),
                session_type: SessionType::Single.into(),
                status: SessionStatus::Ok.into(),
                latest_msg_data: Bytes::from_static(b"content"),
                ..Default::default()
            };
            let sessions = ms.iter().map(session).collect();
            let reply = RecentSessionsReply { sessions, ..Default::default() };
            Answer { newest_ms: ms, ..answered(Command::RecentSessionsReply, &reply) }
        };
        let answers = vec![answer(0), answer(1)];
        let reply: RecentSessionsReply =
            read(&merged(MergedCommand::RecentSessionsRequest, answers));
        let ids: Vec<u32> = reply.sessions.iter().map(|session| session.session_id).collect();
        assert_eq!(ids, (901..=1_000).rev().collect::<Vec<_>>());
    }

    #[test]
    fn groups_stand_in_the_order_asked_as_far_as_they_fit() {
        let info = |group_id: u32, members: usize| GroupInfo {
            group_id,
            group_type: GroupType::Normal.into(),
            member_ids: vec![u32::MAX; members],
            ..Default::default()
        };
        let answer = |groups| {
            let reply = GroupInfoReply { groups, ..Default::default() };
            answered(Command::GroupInfoReply, &reply)
        };
        let asked = GroupInfoRequest {
            groups: [1, 2, 3, 4].map(|group_id| GroupVersion { group_id, version: 0 }).to_vec(),
            ..Default::default()
        };
        let asked: Bytes = asked.encode_to_vec().into();
        let ids = |answers: Vec<Answer>| {
            let ask = Ask { body: asked.clone(), ..self::asked(None) };
            let answer =
                merge(MergedCommand::GroupInfoRequest, &ask, answers, &Placeholders::default());
            let reply: GroupInfoReply = read(&answer);
            let ids = reply.groups.iter().map(|group| group.group_id).collect::<Vec<_>>();
            (ids, answer.rest.and_then(|rest| rest.id))
        };
        assert_eq!(
            ids(vec![answer(vec![info(2, 3), info(4, 3)]), answer(vec![info(1, 3)])]),
            (vec![1, 2, 4], None)
        );
        let (long, longer) = (info(2, 30_000), info(4, 30_000));
        let first = answer(vec![info(1, 20_000), info(3, 20_000)]);
        assert_eq!(
            ids(vec![answer(vec![long, longer]), first]),
            (vec![1, 2], Some(2)),
            "3 begins the next part"
        );
        // One owner has come to 1 and the other to the end: what is after 1 waits.
        let cut = Answer {
            rest: Some(Rest { id: Some(1), ..Rest::default() }),
            ..answer(vec![info(1, 3)])
        };
        assert_eq!(ids(vec![answer(vec![info(2, 3), info(4, 3)]), cut]), (vec![1], Some(1)));
    }

    #[test]
    fn the_normal_groups_of_all_owners_are_one_list() {
        let answer = |ids: &[u32]| {
            let groups =
                ids.iter().map(|&group_id| GroupVersion { group_id, version: 1 }).collect();
            let reply = NormalGroupsReply { groups, ..Default::default() };
            answered(Command::NormalGroupsReply, &reply)
        };
        let answers = vec![answer(&[3, 9]), answer(&[]), answer(&[4])];
        let reply: NormalGroupsReply = read(&merged(MergedCommand::NormalGroupsRequest, answers));
        let ids: Vec<u32> = reply.groups.iter().map(|group| group.group_id).collect();
        assert_eq!(ids, [3, 4, 9]);
        // One owner has more from 5 on: what the other has above that waits.
        let rest = Some(Rest { id: Some(5), ..Rest::default() });
        let cut = Answer { rest, ..answer(&[3, 4]) };
        let merged = merged(MergedCommand::NormalGroupsRequest, vec![cut, answer(&[1, 9])]);
        let reply: NormalGroupsReply = read(&merged);
        let ids: Vec<u32> = reply.groups.iter().map(|group| group.group_id).collect();
        assert_eq!((ids, merged.rest), (vec![1, 3, 4], rest));
    }

    #[test]
    fn of_more_normal_groups_than_fit_a_frame_the_rest_begins_the_next_part() {
        let first = u32::MAX - u32::try_from(NORMAL_GROUPS_MAX).unwrap();
        let all: Vec<GroupVersion> = (first..=u32::MAX)
            .map(|group_id| GroupVersion { group_id, version: u32::MAX })
            .collect();
        let answer = |groups: &[GroupVersion]| {
            let reply = NormalGroupsReply { groups: groups.to_vec(), ..Default::default() };
            answered(Command::NormalGroupsReply, &reply)
        };
        let (some, others) = all.split_at(1_000);
        let merged = merged(MergedCommand::NormalGroupsRequest, vec![answer(others), answer(some)]);
        let reply: NormalGroupsReply = read(&merged);
        assert_eq!(reply.groups, all[..NORMAL_GROUPS_MAX]);
        assert_eq!(merged.rest.and_then(|rest| rest.id), Some(u32::MAX));
    }

    #[test]
    fn a_part_that_is_missing_makes_the_whole_unavailable_and_never_short() {
        let status = |status: AskStatus| Answer { status: status.into(), ..Answer::default() };
        let whole = || unread_answer(&[(9, 40)]);
        let merged_of = merged;
        let merged =
            |other| merged(MergedCommand::UnreadCountRequest, vec![whole(), other]).status();
        assert_eq!(merged(status(AskStatus::Unavailable)), AskStatus::Unavailable);
        assert_eq!(merged(status(AskStatus::Ignored)), AskStatus::Unavailable);
        let undated = Answer { newest_ms: Vec::new(), ..whole() };
        assert_eq!(merged(undated), AskStatus::Unavailable);
        let unreadable = Answer { body: Some(Bytes::from_static(&[0xff; 3])), ..whole() };
        assert_eq!(merged(unreadable), AskStatus::Unavailable);
        let ignored = vec![status(AskStatus::Ignored), status(AskStatus::Ignored)];
        let ignored = merged_of(MergedCommand::RecentSessionsRequest, ignored);
        assert_eq!(ignored.status(), AskStatus::Ignored);
    }

    #[test]
    fn the_answer_of_a_single_owner_is_passed_on_as_it_is() {
        let only = unread_answer(&[(2, 40), (9, 40)]);
        assert_eq!(merged(MergedCommand::UnreadCountRequest, vec![only.clone()]), only);
    }

    #[test]
    fn of_sessions_with_equal_times_the_order_is_that_of_their_conversations() {
        let mut answers = [unread_answer(&[(7, 40)]), unread_answer(&[(3, 40), (9, 40)])];
        for answer in &mut answers {
            answer.newest_ms.fill(1_000);
        }
        for _order in 0..2 {
            answers.reverse();
            let merged = merged(MergedCommand::UnreadCountRequest, answers.to_vec());
            let reply: UnreadCountReply = read(&merged);
            let ids: Vec<u32> = reply.sessions.iter().map(|session| session.session_id).collect();
            // Users 5 and 9, 5 and 7, 3 and 5.
            assert_eq!((ids, merged.rest), (vec![9, 7, 3], None));
        }
    }

    #[test]
    fn the_count_of_all_that_is_unread_does_not_begin_again() {
        let mut answers = vec![unread_answer(&[(9, 4)]), unread_answer(&[(7, 4)])];
        let mut reply: UnreadCountReply = read(&answers[0]);
        reply.total_count = u32::MAX;
        answers[0].body = Some(reply.encode_to_vec().into());
        let reply: UnreadCountReply = read(&merged(MergedCommand::UnreadCountRequest, answers));
        assert_eq!(reply.total_count, u32::MAX);
    }

    /// What an owner has left out is below what it has told, and the next part is to find it.
    #[test]
    fn what_one_owner_has_left_to_tell_is_left_to_tell_of_the_whole() {
        let cut = Answer { rest: Some(Rest::default()), ..unread_answer(&[(9, 4), (4, 4)]) };
        let answers = vec![unread_answer(&[(7, 4)]), cut];
        let rest = merged(MergedCommand::UnreadCountRequest, answers.clone()).rest.unwrap();
        assert_eq!((rest.above_ms, rest.below_ms), (Some(9), Some(4)));
        // A later part goes on telling from where the first one began.
        let before = Rest { above_ms: Some(50), below_ms: Some(10), ..Rest::default() };
        let ask = asked(Some(before));
        let rest =
            merge(MergedCommand::UnreadCountRequest, &ask, answers, &Placeholders::default())
                .rest
                .unwrap();
        assert_eq!((rest.above_ms, rest.below_ms), (Some(50), Some(4)));
        assert_eq!(rest.conversation, Some(4 << 32 | 5), "that of users 4 and 5");
    }

    #[test]
    fn groups_go_on_where_the_last_part_ended_and_those_that_nobody_knows_are_left_out() {
        let info = |group_id| GroupInfo {
            group_id,
            group_type: GroupType::Normal.into(),
            ..GroupInfo::default()
        };
        let answer = |ids: &[u32]| {
            let groups = ids.iter().copied().map(info).collect();
            let reply = GroupInfoReply { groups, ..GroupInfoReply::default() };
            answered(Command::GroupInfoReply, &reply)
        };
        let versions = [9, 8, 7, 6, 9].map(|group_id| GroupVersion { group_id, version: 0 });
        let body = GroupInfoRequest { groups: versions.to_vec(), ..Default::default() };
        let rest = Some(Rest { id: Some(2), ..Rest::default() });
        let ask = Ask { body: body.encode_to_vec().into(), ..asked(rest) };
        let answers = vec![answer(&[6, 9, 8]), answer(&[5])];
        let merged_of = |ask: &Ask| {
            merge(MergedCommand::GroupInfoRequest, ask, answers.clone(), &Placeholders::default())
        };
        let merged = merged_of(&ask);
        let reply: GroupInfoReply = read(&merged);
        let ids: Vec<u32> = reply.groups.iter().map(|group| group.group_id).collect();
        assert_eq!((ids, merged.rest, reply.user_id), (vec![6, 9], None, USER));
        let wrong = Ask { body: Bytes::from_static(&[0xff; 3]), ..ask };
        assert_eq!(merged_of(&wrong).status(), AskStatus::Unavailable);
    }
}
