//! Whether others notice what is done to a cluster: how long their answers take meanwhile.

use std::time::Duration;

use super::{Run, percentile};

/// How much longer half of the answers may take. A median changes little where a machine is busy with
/// something else as well, and much where others have to wait for what is done.
const MEDIAN_SLOWER_MAX: u32 = 4;
/// Below this a median says more about the machine.
const MEDIAN_FLOOR: Duration = Duration::from_millis(40);

/// How much longer all answers but one of a hundred may take, and below which time that says more about
/// the machine. Held in long forms only, which have a machine for themselves.
#[derive(Debug, Clone, Copy)]
pub(super) struct Notice {
    pub(super) slower_max: f64,
    pub(super) floor: Duration,
}

impl Notice {
    /// Shows how long answers took before and meanwhile, and fails if the others notice.
    pub(super) fn check(
        self,
        run: &mut Run,
        what: &str,
        before: &mut [Duration],
        meanwhile: &mut [Duration],
    ) {
        let slower_max = self.slower_max;
        run.figure(&format!("{what}, before: p50, p99"), shown(before));
        run.figure(
            &format!("{what}, meanwhile"),
            format!("{} (≤ {MEDIAN_SLOWER_MAX}×, in long forms ≤ {slower_max}×)", shown(meanwhile)),
        );
        assert!(!before.is_empty() && !meanwhile.is_empty(), "{what}: there are some");
        let [(p50, p99), (p50_before, p99_before)] = [meanwhile, before]
            .map(|answers| (percentile(answers, 0.5), percentile(answers, 0.99)));
        let limit = (p50_before * MEDIAN_SLOWER_MAX).max(MEDIAN_FLOOR);
        assert!(p50 <= limit, "{what}: the others notice: p50 {p50:?}, before {p50_before:?}");
        let limit = p99_before.mul_f64(slower_max).max(self.floor);
        let holds = !run.is_long || p99 <= limit;
        assert!(holds, "{what}: the others notice: p99 {p99:?}, before {p99_before:?}");
    }
}

/// Half of the times, and all but one of a hundred.
pub(super) fn shown(answers: &mut [Duration]) -> String {
    let [p50, p99] = [0.5, 0.99].map(|share| percentile(answers, share));
    format!("{p50:.1?}, {p99:.1?} of {}", answers.len())
}
