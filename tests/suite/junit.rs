//! `tools/junit`: what GitLab shows of a test run.

use std::path::Path;
use std::time::Duration;

use cluster_init::exec::Command;

const LOG: &str = r#"
   Compiling cluster-init v0.1.0
running 4 tests
test a::b ... ok
test a::b has been running for over 60 seconds
test c::d_e ... FAILED
test k::m ... ignored, takes minutes

failures:

---- c::d_e stdout ----
left: "<x>" & y
note: z

failures:
    c::d_e

test result: FAILED. 1 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 3.50s
test git::x ... ok
test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.25s
"#;

const REPORT: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<testsuite name="cluster-init" tests="4" failures="1" skipped="1" time="3.75">
  <testcase classname="a" name="a::b"></testcase>
  <testcase classname="c" name="c::d_e"><failure message="it failed">left: &quot;&lt;x&gt;&quot; &amp; y
note: z

</failure></testcase>
  <testcase classname="k" name="k::m"><skipped/></testcase>
  <testcase classname="git" name="git::x"></testcase>
</testsuite>
"#;

#[tokio::test]
async fn the_runner_s_output_becomes_a_report() {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/junit");
    let output = Command::new(program).input(LOG).run(Duration::from_secs(20)).await.unwrap();
    assert_eq!(output.text(), REPORT);
}
