use super::*;

fn machine(events: impl IntoIterator<Item = Event>) -> (Machine, Vec<Effect>) {
    let mut machine = Machine::default();
    let mut last = vec![];
    for event in events {
        last = machine.handle(event);
    }
    (machine, last)
}

fn port_in_use() -> Event {
    Event::Failed(Failure::new(Reason::PortInUse, "port 15001 is taken"))
}

fn captured() -> Vec<Event> {
    vec![
        Event::Capture,
        Event::Located(PodTable::Absent),
        Event::ListenersReady,
        Event::Acknowledged,
        Event::RulesInForce,
    ]
}

fn draining() -> Vec<Event> {
    let release = [
        Event::Release,
        Event::Swapped,
        Event::LingerOver,
        Event::QueueEmpty,
    ];
    captured().into_iter().chain(release).collect()
}

#[test]
fn a_pod_is_captured_step_by_step() {
    let mut m = Machine::default();
    assert_eq!(m.handle(Event::Capture), [Effect::Locate]);
    assert_eq!(
        m.handle(Event::Located(PodTable::Absent)),
        [Effect::MakeListeners]
    );
    assert_eq!(m.handle(Event::ListenersReady), [Effect::AddPod]);
    assert_eq!(m.reported(), CaptureState::Pending);
    assert_eq!(m.handle(Event::Acknowledged), [Effect::ApplyRules]);
    assert_eq!(m.reported(), CaptureState::Pending);
    assert_eq!(m.handle(Event::RulesInForce), [Effect::Watch]);
    assert_eq!(
        (m.state(), m.reported()),
        (&State::Captured, CaptureState::Captured)
    );
}

#[test]
fn rules_come_only_after_the_ztunnels_word() {
    let (mut m, _) = machine([Event::Capture, Event::Located(PodTable::Absent)]);
    assert_eq!(m.handle(Event::Acknowledged), [], "no listeners yet");
    assert_eq!(m.handle(Event::RulesInForce), []);
    assert_eq!(m.reported(), CaptureState::Pending);
}

#[test]
fn a_failed_step_is_tried_again_later_and_later_with_its_reason() {
    let (mut m, first) = machine([Event::Capture, Event::Located(PodTable::Absent), port_in_use()]);
    assert_eq!(first, [Effect::Retry(FIRST_RETRY)]);
    assert_eq!(m.reported(), CaptureState::Failed);
    assert!(matches!(m.state(), State::Failed(f) if f.reason == Reason::PortInUse));
    assert_eq!(m.handle(Event::RetryDue), [Effect::Locate]);
    m.handle(Event::Located(PodTable::Absent));
    assert_eq!(m.handle(port_in_use()), [Effect::Retry(FIRST_RETRY * 2)]);
    for _ in 0..20 {
        m.handle(Event::RetryDue);
        m.handle(port_in_use());
    }
    m.handle(Event::RetryDue);
    assert_eq!(m.handle(port_in_use()), [Effect::Retry(LAST_RETRY)]);
}

#[test]
fn waiting_for_a_sandbox_is_no_failure() {
    let missing = Failure::new(Reason::SandboxNotFound, "not made yet");
    let (mut m, _) = machine([Event::Capture, Event::Failed(missing)]);
    assert_eq!(m.reported(), CaptureState::Pending);
    let effects = m.handle(Event::SandboxMade);
    assert_eq!(effects.last(), Some(&Effect::Locate));
}

#[test]
fn a_restarted_agent_takes_a_captured_pod_over_from_its_ztunnel() {
    let (mut m, effects) = machine([Event::Capture, Event::Located(PodTable::Redirecting)]);
    assert_eq!(
        effects,
        [Effect::AwaitHeld],
        "no new listeners before a ztunnel could bring the old"
    );
    assert_eq!(
        m.reported(),
        CaptureState::Captured,
        "nothing changed for the pod"
    );
    assert_eq!(m.handle(Event::ListenersReady), [Effect::AddPod]);
    assert_eq!(m.handle(Event::Acknowledged), [Effect::ApplyRules]);
    assert_eq!(m.reported(), CaptureState::Captured);
}

#[test]
fn listeners_brought_before_the_pod_is_found_are_used() {
    let (_, effects) = machine([
        Event::Capture,
        Event::ListenersReady,
        Event::Located(PodTable::Redirecting),
    ]);
    assert_eq!(effects, [Effect::AddPod]);
}

#[test]
fn lost_listeners_are_made_again_when_nobody_holds_them() {
    let (_, effects) = machine([
        Event::Capture,
        Event::Located(PodTable::Redirecting),
        Event::NotHeld,
    ]);
    assert_eq!(effects, [Effect::MakeListeners]);
}

#[test]
fn ports_held_by_a_ztunnel_that_connects_late_are_taken_over() {
    let (mut m, effects) = machine([
        Event::Capture,
        Event::Located(PodTable::Redirecting),
        Event::NotHeld,
        port_in_use(),
        Event::ListenersReady,
    ]);
    assert_eq!(effects, [Effect::Locate]);
    assert_eq!(m.handle(Event::Located(PodTable::Redirecting)), [Effect::AddPod]);
}

#[test]
fn a_pod_is_released_in_phases() {
    let (mut m, effects) = machine(captured().into_iter().chain([Event::Release]));
    assert_eq!(effects, [Effect::SwapRules]);
    assert_eq!(m.handle(Event::Swapped), [Effect::Linger(LINGER_UNACKNOWLEDGED)]);
    assert_eq!(m.reported(), CaptureState::Releasing);
    assert_eq!(m.handle(Event::Withdrawn), [Effect::Linger(LINGER)]);
    assert_eq!(m.handle(Event::LingerOver), [Effect::EmptyQueue]);
    assert_eq!(
        m.handle(Event::QueueEmpty),
        [Effect::DrainTimer, Effect::RemovePod { force: false }]
    );
    assert_eq!(m.handle(Event::ZtunnelDone), [Effect::Deliver]);
    assert_eq!(m.handle(Event::Delivered), [Effect::Undo]);
    assert_eq!(m.handle(Event::Undone), [Effect::DropDescriptors]);
    assert_eq!(
        (m.state(), m.reported()),
        (&State::Released, CaptureState::Released)
    );
}

#[test]
fn at_the_deadline_connections_are_ended() {
    let (mut m, _) = machine(draining());
    assert_eq!(m.handle(Event::ZtunnelDone), [Effect::Deliver]);
    assert_eq!(
        m.handle(Event::DrainDeadline),
        [Effect::RemovePod { force: true }, Effect::Undo]
    );
    assert_eq!(m.handle(Event::ZtunnelDone), [], "one undoing is enough");
}

#[test]
fn a_label_put_back_while_draining_captures_again_with_the_same_listeners() {
    let (mut m, _) = machine(draining());
    assert_eq!(m.handle(Event::Capture), [Effect::Locate]);
    assert_eq!(m.handle(Event::Located(PodTable::Draining)), [Effect::AddPod]);
}

#[test]
fn a_label_put_back_while_undoing_waits_for_the_end() {
    let (mut m, _) = machine(
        draining()
            .into_iter()
            .chain([Event::ZtunnelDone, Event::Delivered]),
    );
    assert_eq!(m.handle(Event::Capture), []);
    assert_eq!(m.handle(Event::Undone), [Effect::DropDescriptors, Effect::Locate]);
}

#[test]
fn a_release_that_fails_is_tried_again() {
    let failed = Event::Failed(Failure::new(Reason::RulesRejected, "EBUSY"));
    let (mut m, effects) = machine(captured().into_iter().chain([Event::Release, failed]));
    assert_eq!(effects, [Effect::Retry(FIRST_RETRY)]);
    assert_eq!(m.handle(Event::RetryDue), [Effect::Locate]);
    assert_eq!(
        m.handle(Event::Located(PodTable::Redirecting)),
        [Effect::SwapRules]
    );
}

#[test]
fn a_dead_pods_descriptors_are_dropped_at_once() {
    for events in [
        captured(),
        draining(),
        vec![Event::Capture, Event::Located(PodTable::Absent)],
    ] {
        let (m, effects) = machine(events.into_iter().chain([Event::SandboxGone]));
        assert!(effects.starts_with(&[Effect::RemovePod { force: true }, Effect::DropDescriptors]));
        assert!(!m.needs_probes() && !m.wants_ztunnel());
    }
}

#[test]
fn listeners_of_a_pod_that_died_while_there_was_no_agent_are_let_go() {
    let missing = Event::Failed(Failure::new(Reason::SandboxNotFound, "gone"));
    let (m, effects) = machine([Event::Capture, Event::ListenersReady, missing]);
    assert!(effects.starts_with(&[Effect::RemovePod { force: true }, Effect::DropDescriptors]));
    assert!(!m.wants_ztunnel());
}

#[test]
fn a_new_sandbox_begins_from_the_start() {
    let (mut m, effects) = machine(captured().into_iter().chain([Event::SandboxMade]));
    assert_eq!(
        effects,
        [
            Effect::RemovePod { force: true },
            Effect::DropDescriptors,
            Effect::Locate
        ]
    );
    assert_eq!(m.reported(), CaptureState::Pending);
    assert_eq!(
        m.handle(Event::Located(PodTable::Absent)),
        [Effect::MakeListeners]
    );
}

#[test]
fn a_pod_that_is_not_wanted_is_cleaned_only_if_there_is_something() {
    let (m, effects) = machine([Event::Inspect, Event::Located(PodTable::Absent)]);
    assert_eq!(
        (m.state(), effects),
        (&State::Released, vec![Effect::DropDescriptors])
    );
    let (_, effects) = machine([Event::Inspect, Event::Located(PodTable::Redirecting)]);
    assert_eq!(effects, [Effect::SwapRules]);
}

#[test]
fn a_release_before_the_pod_is_found_ends_there() {
    let (m, _) = machine([Event::Capture, Event::Release, Event::Located(PodTable::Absent)]);
    assert_eq!(m.state(), &State::Released);
    let missing = Event::Failed(Failure::new(Reason::SandboxNotFound, "gone"));
    let (m, _) = machine([Event::Capture, Event::Release, missing]);
    assert!(m.is_clean());
}

#[test]
fn a_pod_that_nobody_names_stays_captured_until_its_sandbox_ends() {
    let (mut m, effects) = machine(captured().into_iter().chain([Event::Unnamed]));
    assert_eq!((m.state(), effects), (&State::Captured, vec![]));
    assert!(m.wants_ztunnel() && m.needs_probes());
    assert_eq!(m.handle(Event::Unnamed), [], "said again");
    let effects = m.handle(Event::SandboxGone);
    assert_eq!(
        effects,
        [Effect::RemovePod { force: true }, Effect::DropDescriptors],
        "no other sandbox is waited for"
    );
    assert!(m.is_clean() && !m.wants_capture());
}

#[test]
fn a_capture_under_way_goes_on_when_nobody_names_the_pod() {
    let (mut m, _) = machine([Event::Capture, Event::Located(PodTable::Absent), Event::Unnamed]);
    assert_eq!(m.handle(Event::ListenersReady), [Effect::AddPod]);
    let (mut m, _) = machine([Event::Capture, Event::Unnamed]);
    assert_eq!(
        m.handle(Event::Located(PodTable::Absent)),
        [Effect::MakeListeners]
    );
}

#[test]
fn a_pod_that_nobody_names_is_released_on_order_and_captured_when_it_is_named_again() {
    let unnamed = || captured().into_iter().chain([Event::Unnamed]);
    let (_, effects) = machine(unnamed().chain([Event::Release]));
    assert_eq!(effects, [Effect::SwapRules]);
    let (m, effects) = machine(unnamed().chain([Event::Capture, Event::SandboxGone]));
    assert_eq!(effects.last(), Some(&Effect::Retry(LAST_RETRY)));
    assert!(m.wants_capture(), "its next sandbox is waited for");
}

#[test]
fn a_pod_that_nobody_has_named_to_this_agent_is_kept_if_it_is_redirected() {
    let found = |table| machine([Event::Unnamed, Event::Located(table)]);
    let (m, effects) = found(PodTable::Redirecting);
    assert_eq!(effects, [Effect::AwaitHeld]);
    assert!(m.wants_capture());
    let (m, effects) = found(PodTable::Absent);
    assert_eq!(
        (m.state(), effects),
        (&State::Released, vec![Effect::DropDescriptors])
    );
    let (_, effects) = found(PodTable::Draining);
    assert_eq!(effects, [Effect::SwapRules], "a release that had begun");
    let missing = Event::Failed(Failure::new(Reason::SandboxNotFound, "gone"));
    let (m, _) = machine([Event::Unnamed, missing]);
    assert!(m.is_clean() && !m.wants_capture());
}

#[test]
fn a_release_goes_on_when_nobody_names_the_pod() {
    let failed = Event::Failed(Failure::new(Reason::RulesRejected, "EBUSY"));
    let (mut m, _) =
        machine(
            captured()
                .into_iter()
                .chain([Event::Release, Event::Unnamed, failed, Event::Unnamed]),
        );
    assert_eq!(m.handle(Event::RetryDue), [Effect::Locate]);
    assert_eq!(
        m.handle(Event::Located(PodTable::Redirecting)),
        [Effect::SwapRules]
    );
}

#[test]
fn a_pod_that_ended_before_it_was_named_no_more_is_done_with() {
    let (m, effects) = machine(captured().into_iter().chain([Event::SandboxGone, Event::Unnamed]));
    assert_eq!((m.state(), effects), (&State::Released, vec![]));
    assert!(!m.wants_capture());
    let missing = Event::Failed(Failure::new(Reason::SandboxNotFound, "gone"));
    let (m, _) =
        machine(
            captured()
                .into_iter()
                .chain([Event::Unnamed, port_in_use(), Event::RetryDue, missing]),
        );
    assert!(m.is_clean() && !m.wants_capture(), "nothing is tried again");
}

#[test]
fn every_step_is_a_new_epoch() {
    let (mut m, _) = machine(captured());
    let before = m.epoch();
    m.handle(Event::Release);
    assert!(
        m.epoch() > before,
        "a late answer to an earlier effect can be told from a current one"
    );
}

#[test]
fn a_captured_pod_is_checked_again_and_again() {
    let (mut m, _) = machine(captured());
    for _ in 0..3 {
        assert_eq!(m.handle(Event::CheckDue), [Effect::Check]);
        assert_eq!(m.handle(Event::Intact), [Effect::Watch]);
    }
    m.handle(Event::CheckDue);
    assert_eq!(m.handle(Event::Release), [Effect::SwapRules]);
    assert_eq!(m.handle(Event::Intact), [], "of a check that was under way");
}

#[test]
fn a_redirection_that_cannot_be_restored_is_failed_until_it_stands_again() {
    let rejected = Failure::new(Reason::RulesRejected, "EPERM");
    let (mut m, effects) = machine(
        captured()
            .into_iter()
            .chain([Event::CheckDue, Event::Lost(rejected)]),
    );
    assert_eq!(effects, [Effect::Retry(FIRST_RETRY)]);
    assert_eq!(m.reported(), CaptureState::Failed);
    assert_eq!(m.handle(Event::RetryDue), [Effect::Locate]);
    // The table may stand without the route: that is no capture.
    assert_eq!(m.handle(Event::Located(PodTable::Redirecting)), [Effect::AddPod]);
    assert_eq!(m.reported(), CaptureState::Pending);
    m.handle(Event::Acknowledged);
    assert_eq!(m.handle(Event::RulesInForce), [Effect::Watch]);
    assert_eq!(m.reported(), CaptureState::Captured);
}
