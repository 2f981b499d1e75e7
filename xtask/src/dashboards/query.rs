//! Parts that queries are made of.

/// The rate of a counter's series, over the interval that Grafana finds right for the scrape interval.
pub(super) fn rate(metric: &str, selector: &str) -> String {
    format!("rate({metric}{{{selector}}}[$__rate_interval])")
}

/// The sum of a counter's rate, by labels; by none where there are none.
pub(super) fn sum_rate(by: &str, metric: &str, selector: &str) -> String {
    sum(by, &rate(metric, selector))
}

/// The sum of an expression, by labels.
pub(super) fn sum(by: &str, expression: &str) -> String {
    if by.is_empty() {
        format!("sum({expression})")
    } else {
        format!("sum by ({by}) ({expression})")
    }
}

/// The same, and 0 where there are no series: a counter that never counted is none yet.
pub(super) fn or_zero(expression: &str) -> String {
    format!("({expression} or vector(0))")
}

/// A part of a whole that may be empty.
pub(super) fn share(part: &str, whole: &str) -> String {
    format!("{part} / ({whole} > 0)")
}

/// The quantile of a histogram's observations, by labels.
pub(super) fn quantile(quantile: &str, by: &str, metric: &str, selector: &str) -> String {
    let by = if by.is_empty() {
        "le".to_owned()
    } else {
        format!("le, {by}")
    };
    format!(
        "histogram_quantile({quantile}, {})",
        sum_rate(&by, &format!("{metric}_bucket"), selector)
    )
}

/// The part of requests that did not end with a 5xx, by labels. Those whose callers gave up (code 0) count as good:
/// nobody waited for them.
pub(super) fn success(by: &str, selector: &str) -> String {
    let good = format!("{selector},response_code!~\"5..\"");
    share(
        &or_zero_by(
            by,
            &sum_rate(by, "istio_requests_total", &good),
            &sum_rate(by, "istio_requests_total", selector),
        ),
        &sum_rate(by, "istio_requests_total", selector),
    )
}

/// Where all requests fail, the good ones have no series: 0 for each of the whole's.
fn or_zero_by(by: &str, part: &str, whole: &str) -> String {
    if by.is_empty() {
        or_zero(part)
    } else {
        format!("({part} or {whole} * 0)")
    }
}

/// CPU of containers, in cores.
pub(super) fn cpu(by: &str, selector: &str) -> String {
    sum_rate(by, "container_cpu_usage_seconds_total", selector)
}

/// Memory of containers that the kernel cannot take back.
pub(super) fn memory(by: &str, selector: &str) -> String {
    sum(by, &format!("container_memory_working_set_bytes{{{selector}}}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_make_whole_queries() {
        assert_eq!(
            sum_rate("a", "m_total", "b=\"c\""),
            "sum by (a) (rate(m_total{b=\"c\"}[$__rate_interval]))"
        );
        assert_eq!(
            quantile("0.9", "", "m", ""),
            "histogram_quantile(0.9, sum by (le) (rate(m_bucket{}[$__rate_interval])))"
        );
        assert_eq!(share("1", "2"), "1 / (2 > 0)");
    }
}
