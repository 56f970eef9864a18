//! The links that are up, for handlers to embed.

use std::sync::Arc;

use parking_lot::RwLock;

use super::handle::Link;

/// The links that are up. Looking takes no copy of a link; changing copies the list, which is short.
#[derive(Debug, Default)]
pub struct LinkTable {
    links: RwLock<Arc<[Link]>>,
}

impl LinkTable {
    /// Adds a link, in [`LinkHandler::up`](super::LinkHandler::up). Returns the links that are up to
    /// a peer of the same role and name: left over from before it came back, and about to go.
    pub fn add(&self, link: &Link) -> Vec<Link> {
        let mut links = self.links.write();
        let peer = link.peer();
        let same = |other: &&Link| {
            let other = other.peer();
            other.role == peer.role && other.name == peer.name
        };
        let older = links.iter().filter(same).cloned().collect();
        *links = links.iter().chain([link]).cloned().collect();
        older
    }

    /// Removes a link, in [`LinkHandler::down`](super::LinkHandler::down). Whether it was there.
    pub fn remove(&self, link: &Link) -> bool {
        let mut links = self.links.write();
        let before = links.len();
        *links = links.iter().filter(|other| *other != link).cloned().collect();
        links.len() < before
    }

    /// All links, oldest first, as they are at this moment.
    pub fn all(&self) -> Arc<[Link]> {
        Arc::clone(&self.links.read())
    }

    /// The link of that number.
    pub fn by_id(&self, id: u64) -> Option<Link> {
        self.links.read().iter().find(|link| link.id() == id).cloned()
    }

    /// How many links are up.
    pub fn len(&self) -> usize {
        self.links.read().len()
    }

    /// Whether no link is up.
    pub fn is_empty(&self) -> bool {
        self.links.read().is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::super::identity::{Peer, Role};
    use super::super::metrics::LinkMetrics;
    use super::*;

    fn link(name: &str) -> Link {
        let addr = "127.0.0.1:1".parse().unwrap();
        let peer = Peer { role: Role::DbProxy, name: name.to_owned(), boot: 1, addr };
        Link::new(peer, 1024, LinkMetrics::default().of(Role::DbProxy))
    }

    #[test]
    fn the_newest_link_of_a_name_counts_and_the_older_is_told() {
        let table = LinkTable::default();
        let (old, other, new) = (link("a"), link("b"), link("a"));
        assert!(table.add(&old).is_empty());
        assert!(table.add(&other).is_empty());
        assert_eq!(table.add(&new), std::slice::from_ref(&old));
        assert_eq!(&*table.all(), [old.clone(), other.clone(), new.clone()]);
        assert!(table.remove(&old) && !table.remove(&old));
        assert_eq!(&*table.all(), [other, new.clone()]);
        assert_eq!(table.by_id(new.id()), Some(new));
    }
}
