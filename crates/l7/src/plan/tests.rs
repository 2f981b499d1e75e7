use std::time::Duration;

use super::*;
use crate::{
    BackendSpec, Fraction, HeaderSpec, MirrorSpec, PathEditSpec, RedirectSpec, RetrySpec, RewriteSpec,
    RouteKind, RouteSpec, RouteTable, TimeoutSpec,
};

fn compile(rule: RuleSpec) -> Result<Plan, String> {
    let route = RouteSpec {
        name: RouteName {
            kind: RouteKind::GrpcRoute,
            namespace: "shop".to_owned(),
            name: "cart".to_owned(),
        },
        hostnames: Vec::new(),
        rules: vec![rule],
    };
    let table = RouteTable::compile(&[route]);
    match table.errors() {
        [] => Ok((*table.plans()[0]).clone()),
        errors => {
            assert_eq!(table.plans()[0].action, Action::Invalid);
            Err(errors
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join("; "))
        }
    }
}

fn with_filters(filters: FilterSpec) -> RuleSpec {
    RuleSpec {
        filters,
        ..RuleSpec::default()
    }
}

fn replace_prefix() -> RewriteSpec {
    RewriteSpec {
        hostname: None,
        path: Some(PathEditSpec::Prefix("/new".to_owned())),
    }
}

#[test]
fn empty_rule_gets_500() {
    let plan = compile(RuleSpec::default()).unwrap();
    assert_eq!((&plan.cors, &plan.retry), (&None, &None));
    assert_eq!(
        (plan.timeouts, &plan.filters),
        (Timeouts::default(), &Filters::default())
    );
    let Action::Forward(split) = &plan.action else {
        panic!()
    };
    assert_eq!(split.pick(1), None);
    assert_eq!(plan.rule.to_string(), "GRPCRoute shop/cart rules[0]");
}

#[test]
fn a_plan_has_what_the_rule_says() {
    let add = HeaderEditSpecs::add();
    let backend = BackendSpec {
        filters: FilterSpec {
            response_headers: add.clone(),
            ..FilterSpec::default()
        },
        ..BackendSpec::new("b", 80)
    };
    let rule = RuleSpec {
        name: Some("all".to_owned()),
        filters: FilterSpec {
            request_headers: add.clone(),
            response_headers: add,
            rewrite: Some(replace_prefix()),
            redirect: None,
            mirrors: vec![mirror(Fraction::ALL)],
        },
        cors: Some(CorsSpecs::any()),
        timeouts: TimeoutSpec {
            request: Some(Duration::from_secs(1)),
            backend_request: None,
        },
        retry: Some(RetrySpec::default()),
        backends: vec![BackendSpec::new("a", 80), backend],
        ..RuleSpec::default()
    };
    let plan = compile(rule).unwrap();
    let filters = &plan.filters;
    assert!(plan.cors.is_some() && plan.retry.is_some() && filters.rewrite.is_some());
    assert!(!filters.request_headers.is_empty() && !filters.response_headers.is_empty());
    assert_eq!(
        (filters.mirrors.len(), plan.timeouts.request),
        (1, Some(Duration::from_secs(1)))
    );
    let Action::Forward(split) = &plan.action else {
        panic!()
    };
    assert_eq!(split.backends().len(), 2);
    assert!(!split.backends()[1].filters.response_headers.is_empty());
    assert_eq!(plan.rule.to_string(), "GRPCRoute shop/cart rules[0] (all)");

    let redirect = with_filters(FilterSpec {
        redirect: Some(RedirectSpec::default()),
        ..FilterSpec::default()
    });
    assert!(matches!(compile(redirect).unwrap().action, Action::Redirect(_)));
}

struct HeaderEditSpecs;

impl HeaderEditSpecs {
    fn add() -> crate::HeaderEditSpec {
        let header = HeaderSpec {
            name: "x".to_owned(),
            value: "1".to_owned(),
        };
        crate::HeaderEditSpec {
            add: vec![header],
            ..crate::HeaderEditSpec::default()
        }
    }
}

struct CorsSpecs;

impl CorsSpecs {
    fn any() -> crate::CorsSpec {
        crate::CorsSpec {
            allow_origins: vec!["*".to_owned()],
            ..crate::CorsSpec::default()
        }
    }
}

fn mirror(fraction: Fraction) -> MirrorSpec {
    MirrorSpec {
        id: "shadow".to_owned(),
        port: 80,
        fraction,
    }
}

#[test]
fn filters_that_exclude_each_other() {
    let both = FilterSpec {
        rewrite: Some(replace_prefix()),
        redirect: Some(RedirectSpec::default()),
        ..FilterSpec::default()
    };
    let error = compile(with_filters(both)).unwrap_err();
    assert!(
        error.ends_with("filters.requestRedirect: cannot be combined with urlRewrite"),
        "{error}"
    );
    let mut with_backends = with_filters(FilterSpec {
        redirect: Some(RedirectSpec::default()),
        ..FilterSpec::default()
    });
    with_backends.backends = vec![BackendSpec::new("a", 80)];
    let error = compile(with_backends).unwrap_err();
    assert!(
        error.ends_with("filters.requestRedirect: cannot be combined with backendRefs"),
        "{error}"
    );
}

// A backend may redirect, although a rule with backends may not.
#[test]
fn backends_have_filters() {
    let backend = BackendSpec {
        filters: FilterSpec {
            redirect: Some(RedirectSpec::default()),
            ..FilterSpec::default()
        },
        ..BackendSpec::new("a", 80)
    };
    let plan = compile(RuleSpec {
        backends: vec![backend],
        ..RuleSpec::default()
    });
    let Action::Forward(split) = plan.unwrap().action else {
        panic!()
    };
    assert!(split.pick(0).unwrap().filters.redirect.is_some());
}

#[test]
fn prefix_replacement_needs_one_prefix() {
    let path = |path: PathMatch| MatchSpec {
        path,
        ..MatchSpec::default()
    };
    let rule = |matches: Vec<MatchSpec>| RuleSpec {
        matches,
        ..with_filters(FilterSpec {
            rewrite: Some(replace_prefix()),
            ..FilterSpec::default()
        })
    };
    let prefix = || path(PathMatch::Prefix("/old/".to_owned()));
    let plan = compile(rule(vec![prefix()])).unwrap();
    let rewrite = plan.filters.rewrite.unwrap();
    assert_eq!(rewrite.path().unwrap().apply("/old/x", Some("q")), "/new/x?q");
    assert!(compile(rule(vec![])).is_ok());
    for matches in [
        vec![prefix(), prefix()],
        vec![path(PathMatch::Exact("/old".to_owned()))],
    ] {
        let error = compile(rule(matches)).unwrap_err();
        assert!(
            error.contains("filters.urlRewrite.path.replacePrefixMatch: "),
            "{error}"
        );
    }
}

#[test]
fn mirrors_take_their_fraction() {
    let compiled = |fraction| Mirror::compile(&mirror(fraction));
    let share = |numerator, denominator| {
        let mirror = compiled(Fraction {
            numerator,
            denominator,
        })
        .unwrap();
        let random = |step: u64| u32::try_from((step << 32).div_ceil(1000)).unwrap();
        (0..1000).filter(|&step| mirror.applies(random(step))).count()
    };
    assert_eq!(share(0, 100), 0);
    assert_eq!(share(100, 100), 1000);
    assert_eq!(share(42, 100), 420);
    assert_eq!(share(5, 1000), 5);
    assert!(
        compiled(Fraction::percent(50))
            .unwrap()
            .applies(u32::MAX / 2 - 100)
    );
    assert!(!compiled(Fraction::percent(50)).unwrap().applies(u32::MAX));
    assert!(compiled(Fraction::ALL).unwrap().applies(u32::MAX));
    assert!(compiled(Fraction::percent(101)).is_err());
    let none = Fraction {
        numerator: 0,
        denominator: 0,
    };
    assert!(compiled(none).is_err());
}

#[test]
fn timeouts() {
    let compile = |request: u64, backend: u64| {
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        Timeouts::compile(&TimeoutSpec {
            request: seconds(request),
            backend_request: seconds(backend),
        })
    };
    // Zero is said: nothing else applies then.
    assert_eq!(compile(0, 0).unwrap().request, Some(Duration::ZERO));
    assert_eq!(
        compile(0, 5).unwrap().backend_request,
        Some(Duration::from_secs(5))
    );
    assert_eq!(compile(5, 5).unwrap().request, Some(Duration::from_secs(5)));
    assert!(compile(5, 6).is_err());
}

#[test]
fn retries() {
    let spec = |codes: &[u16], attempts| RetrySpec {
        codes: codes.to_vec(),
        attempts,
        backoff: Some(Duration::from_millis(100)),
    };
    let retry = Retry::compile(&spec(&[500, 503], Some(3))).unwrap();
    assert_eq!(retry.attempts(), 3);
    assert_eq!(retry.codes(), [500, 503]);
    assert_eq!(retry.backoff(), Duration::from_millis(100));
    assert_eq!(
        Retry::compile(&spec(&[], Some(1000))).unwrap().attempts(),
        MAX_RETRIES
    );
    for code in [200, 399, 600] {
        assert!(Retry::compile(&spec(&[code], None)).is_err(), "{code}");
    }
    assert_eq!(
        Retry::compile(&RetrySpec::default()).unwrap().backoff(),
        Duration::from_millis(25)
    );
}
