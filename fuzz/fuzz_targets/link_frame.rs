//! Whatever a peer among the daemons sends gives frames or an error, the same ones however it
//! arrives, and what is in a frame is read or refused.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    for frame in daemon::link::fuzzing::link_frames(data) {
        proto::fuzzing::link_body(frame.kind, frame.answer, &frame.body);
    }
});
