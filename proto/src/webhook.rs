//! What other systems may be told of by webhooks: the types of events.

/// A type of event that a webhook may want.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventType {
    /// Somebody said something.
    MessageCreated,
    /// A group was made.
    GroupCreated,
    /// Users joined or left a group, or it was deleted.
    MembersChanged,
}

impl EventType {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::MessageCreated, Self::GroupCreated, Self::MembersChanged];

    /// What it is called in the events themselves.
    pub const fn name(self) -> &'static str {
        match self {
            Self::MessageCreated => "message.created",
            Self::GroupCreated => "group.created",
            Self::MembersChanged => "members.changed",
        }
    }

    /// Its bit among those that a webhook wants. Stored, and so never given to another one.
    pub const fn bit(self) -> u32 {
        match self {
            Self::MessageCreated => 1,
            Self::GroupCreated => 1 << 1,
            Self::MembersChanged => 1 << 2,
        }
    }

    /// The type that is called so.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|event| event.name() == name)
    }

    /// The types whose bits are set. Bits of a newer release are left out.
    pub fn of_bits(bits: u32) -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(move |event| bits & event.bit() != 0)
    }
}

/// Under which name the log is read for a webhook: another one for each replay, so that it begins anew.
pub fn consumer_name(webhook: u32, run: u32) -> String {
    match run {
        0 => format!("webhook.{webhook}"),
        run => format!("webhook.{webhook}.{run}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_type_has_a_name_and_a_bit_of_its_own() {
        let bits = EventType::ALL.iter().fold(0, |bits, event| bits | event.bit());
        assert_eq!(bits.count_ones() as usize, EventType::ALL.len());
        assert_eq!(EventType::of_bits(u32::MAX).collect::<Vec<_>>(), EventType::ALL);
        assert_eq!(EventType::of_bits(2).collect::<Vec<_>>(), [EventType::GroupCreated]);
        for event in EventType::ALL {
            assert_eq!(EventType::named(event.name()), Some(event));
        }
        assert_eq!(EventType::named("message"), None);
    }

    #[test]
    fn a_webhook_reads_the_log_under_a_name_of_its_own() {
        assert_eq!(consumer_name(7, 0), "webhook.7");
        assert_eq!(consumer_name(7, 2), "webhook.7.2");
        assert!(crate::cluster::is_consumer_name(&consumer_name(u32::MAX, u32::MAX)));
    }
}
