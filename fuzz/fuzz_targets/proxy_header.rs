//! Whatever a balancer sends first is a header that is there as a whole, a part of one, or none; and more
//! bytes behind a header change nothing.

#![no_main]

use daemon::proxy_protocol::{Found, HEADER_LEN_MAX, NotAHeader, parse};

libfuzzer_sys::fuzz_target!(|data: &[u8]| match parse(data) {
    Ok(Found::Header(len, source)) => {
        assert!(len <= data.len() && len <= HEADER_LEN_MAX, "a header that is not there");
        assert_eq!(parse(&data[..len]), Ok(Found::Header(len, source)), "what follows counts");
        for part in 0..len {
            assert_eq!(parse(&data[..part]), Ok(Found::Part), "{part} bytes of a header");
        }
    }
    Ok(Found::Part) => assert!(data.len() < HEADER_LEN_MAX, "a part that may grow for ever"),
    Err(NotAHeader) => {}
});
