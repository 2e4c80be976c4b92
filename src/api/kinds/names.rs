//! Forms of names, labels and ports, with Kubernetes' sentences for what does not fit.

/// Longest DNS subdomain.
const MAX_SUBDOMAIN: usize = 253;
/// Longest DNS label, label value, and name part of a qualified name.
const MAX_LABEL: usize = 63;

fn is_lower(c: u8) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit()
}

/// Starts and ends with `edge`, and `inside` or `edge` between.
fn framed(text: &str, edge: fn(u8) -> bool, inside: &[u8]) -> bool {
    let bytes = text.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else {
        return false;
    };
    edge(*first) && edge(*last) && bytes.iter().all(|c| edge(*c) || inside.contains(c))
}

fn too_long(max: usize) -> String {
    format!("must be no more than {max} bytes")
}

/// The sentences of what is true.
fn which<const N: usize>(problems: [(bool, &str); N]) -> Vec<String> {
    problems.iter().filter(|(applies, _)| *applies).map(|(_, sentence)| (*sentence).into()).collect()
}

/// RFC 1123 label: pod container names, namespaces.
pub fn dns_label(text: &str) -> Vec<String> {
    const FORM: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
    which([(text.len() > MAX_LABEL, &too_long(MAX_LABEL)), (!framed(text, is_lower, b"-"), FORM)])
}

/// RFC 1123 subdomain: most names.
pub fn dns_subdomain(text: &str) -> Vec<String> {
    const FORM: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
    let fits = text.split('.').all(|part| framed(part, is_lower, b"-"));
    which([(text.len() > MAX_SUBDOMAIN, &too_long(MAX_SUBDOMAIN)), (!fits, FORM)])
}

/// RFC 1035 label: services.
pub fn dns_1035_label(text: &str) -> Vec<String> {
    const FORM: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
    let fits = framed(text, is_lower, b"-") && text.starts_with(|c: char| c.is_ascii_lowercase());
    which([(text.len() > MAX_LABEL, &too_long(MAX_LABEL)), (!fits, FORM)])
}

/// A name that is safe as one segment of a path: RBAC objects.
pub fn path_segment(text: &str) -> Vec<String> {
    if text == "." || text == ".." {
        return vec![format!("may not be '{text}'")];
    }
    ["/", "%"].iter().filter(|c| text.contains(*c)).map(|c| format!("may not contain '{c}'")).collect()
}

/// `[prefix/]name`: keys of labels and annotations, resources, conditions.
pub fn qualified_name(text: &str) -> Vec<String> {
    const FORM: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
    let mut out = Vec::new();
    let name = match text.split('/').collect::<Vec<_>>()[..] {
        [name] => name,
        [prefix, name] => {
            if prefix.is_empty() {
                out.push("prefix part must be non-empty".into());
            } else {
                out.extend(dns_subdomain(prefix).into_iter().map(|e| format!("prefix part {e}")));
            }
            name
        }
        _ => {
            return vec![format!(
                "a qualified name {FORM} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
            )];
        }
    };
    if name.is_empty() {
        out.push("name part must be non-empty".into());
    } else if name.len() > MAX_LABEL {
        out.push(format!("name part {}", too_long(MAX_LABEL)));
    }
    if !framed(name, |c| c.is_ascii_alphanumeric(), b"-_.") {
        out.push(format!("name part {FORM}"));
    }
    out
}

/// A label's value.
pub fn label_value(text: &str) -> Vec<String> {
    const FORM: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
    let fits = text.is_empty() || framed(text, |c| c.is_ascii_alphanumeric(), b"-_.");
    which([(text.len() > MAX_LABEL, &too_long(MAX_LABEL)), (!fits, FORM)])
}

/// A port's name (IANA service name).
pub fn port_name(text: &str) -> Vec<String> {
    let allowed = !text.is_empty() && text.bytes().all(|c| is_lower(c) || c == b'-');
    which([
        (text.len() > 15, "must be no more than 15 characters"),
        (!allowed, "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)"),
        (!text.bytes().any(|c| c.is_ascii_lowercase()), "must contain at least one letter (a-z)"),
        (text.contains("--"), "must not contain consecutive hyphens"),
        (text.starts_with('-') || text.ends_with('-'), "must not begin or end with a hyphen"),
    ])
}

/// A key of a ConfigMap or Secret: a file name.
pub fn config_key(text: &str) -> Vec<String> {
    const FORM: &str = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";
    let fits = !text.is_empty() && text.bytes().all(|c| c.is_ascii_alphanumeric() || b"-._".contains(&c));
    which([
        (text.len() > MAX_SUBDOMAIN, &too_long(MAX_SUBDOMAIN)),
        (!fits, FORM),
        (text == ".", "must not be '.'"),
        (text.starts_with(".."), "must not start with '..'"),
    ])
}

/// The name of an environment variable: printable ASCII without `=`.
pub fn env_name(text: &str) -> Vec<String> {
    let fits = !text.is_empty() && text.bytes().all(|c| (0x20..0x7f).contains(&c) && c != b'=');
    which([(!fits, "a valid environment variable name must consist only of printable ASCII characters other than '='")])
}

/// An IP address.
pub fn ip(text: &str) -> Vec<String> {
    let fits = text.parse::<std::net::IpAddr>().is_ok();
    which([(!fits, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)")])
}
