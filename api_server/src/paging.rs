//! Lists that come page by page.
//!
//! A cursor says where the next page begins. It is opaque to programs: what stands in it may change, and one
//! of another list is refused.

use std::str::FromStr;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use crate::problem::Problem;

/// Lines of a page, if the program does not say.
pub(crate) const LIMIT: u32 = 100;

/// Lines of a page at most.
pub(crate) const LIMIT_MAX: u32 = 1_000;

/// A page of a list.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub(crate) struct Page<T> {
    /// The lines of this page.
    pub(crate) items: Vec<T>,
    /// What the next page is asked for with; nothing if there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) next: Option<String>,
}

/// Where a page begins, and how long it is.
#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(utoipa::IntoParams))]
#[cfg_attr(test, into_params(parameter_in = Query))]
#[serde(deny_unknown_fields)]
pub(crate) struct Wanted {
    /// Where the page begins: `next` of the page before.
    pub(crate) cursor: Option<String>,
    /// Lines of the page; 100 if not said.
    #[cfg_attr(test, param(minimum = 1, maximum = 1000))]
    pub(crate) limit: Option<u32>,
}

/// How many lines a program wants.
pub(crate) fn limit(wanted: Option<u32>) -> Result<u32, Problem> {
    let limit = wanted.unwrap_or(LIMIT);
    if !(1..=LIMIT_MAX).contains(&limit) {
        return Err(Problem::invalid(format!("limit must be 1 to {LIMIT_MAX}")));
    }
    Ok(limit)
}

/// A cursor of the list that is called so.
pub(crate) fn cursor(list: &str, place: &str) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(format!("1:{list}:{place}"))
}

/// The place that a cursor of this list names.
pub(crate) fn place(list: &str, cursor: &str) -> Result<String, Problem> {
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(cursor).ok();
    let text = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
    let place = text.as_deref().and_then(|text| {
        text.strip_prefix("1:")?.strip_prefix(list)?.strip_prefix(':').map(str::to_owned)
    });
    place.ok_or_else(|| Problem::invalid("the cursor is not one of this list"))
}

/// The number that a cursor of this list names.
pub(crate) fn number<N: FromStr>(list: &str, cursor: &str) -> Result<N, Problem> {
    let place = place(list, cursor)?;
    place.parse().map_err(|_no_number| Problem::invalid("the cursor is not one of this list"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_read_by_its_list_alone() {
        let place_of = |list, text: &str| place(list, text).map_err(|problem| problem.code());
        let users = cursor("users", "anna:\u{e9}");
        assert_eq!(place_of("users", &users), Ok("anna:\u{e9}".to_owned()));
        assert_eq!(place_of("groups", &users), Err("invalid"));
        assert_eq!(place_of("user", &users), Err("invalid"));
        for wrong in ["", "x", "!", "MTp1c2Vycw", users.get(1..).unwrap()] {
            assert_eq!(place_of("users", wrong), Err("invalid"), "{wrong}");
        }
        assert_eq!(number("groups", &cursor("groups", "7")), Ok(7_u32));
        assert_eq!(number("groups", &cursor("groups", "4294967296")), Ok(4_294_967_296_u64));
        for beyond in ["-7", "4294967296"] {
            assert!(number::<u32>("groups", &cursor("groups", beyond)).is_err(), "{beyond}");
        }
    }

    #[test]
    fn a_page_has_one_line_to_a_thousand() {
        assert_eq!(limit(None), Ok(LIMIT));
        assert_eq!(limit(Some(1)), Ok(1));
        assert_eq!(limit(Some(LIMIT_MAX)), Ok(LIMIT_MAX));
        for wrong in [0, LIMIT_MAX + 1, u32::MAX] {
            assert!(limit(Some(wrong)).is_err(), "{wrong}");
        }
    }
}
