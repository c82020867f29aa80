//! Web addresses, as far as redirects of a hub need them: RFC 3986, section 5.2.

use std::fmt;

use ureq::http::Uri;

/// An `http` or `https` address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Url {
    is_encrypted: bool,
    /// Host and port as they were written.
    authority: String,
    /// Host in lower case.
    host: String,
    port: u16,
    /// Path and query.
    path: String,
}

impl Url {
    /// An absolute address; nothing for those of other kinds, or without a host.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let uri: Uri = text.parse().ok()?;
        let is_encrypted = match uri.scheme_str()?.to_ascii_lowercase().as_str() {
            "http" => false,
            "https" => true,
            _ => return None,
        };
        let host = uri.host().filter(|host| !host.is_empty())?.to_ascii_lowercase();
        let port = uri.port_u16().unwrap_or(if is_encrypted { 443 } else { 80 });
        let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        Some(Self { is_encrypted, authority: uri.authority()?.as_str().to_owned(), host, port, path })
    }

    /// Where `location` leads from here; nothing where no such address is.
    pub(super) fn join(&self, location: &str) -> Option<Self> {
        let location = location.split('#').next().unwrap_or_default();
        if has_scheme(location) {
            return Self::parse(location);
        }
        let scheme = self.scheme();
        if location.starts_with("//") {
            return Self::parse(&format!("{scheme}:{location}"));
        }
        // RFC 3986, section 4.2: a colon in the first part would be a scheme's
        if location.split(['/', '?']).next().is_some_and(|first| first.contains(':')) {
            return None;
        }
        let path = self.path.split('?').next().unwrap_or_default();
        let path = match location.chars().next() {
            None => self.path.clone(),
            Some('/') => location.to_owned(),
            Some('?') => format!("{path}{location}"),
            Some(_) => below(path, location),
        };
        Self::parse(&format!("{scheme}://{}{path}", self.authority))
    }

    pub(super) fn host(&self) -> &str {
        &self.host
    }

    pub(super) fn is_encrypted(&self) -> bool {
        self.is_encrypted
    }

    /// Whether both are the same scheme, host and port.
    pub(super) fn is_beside(&self, other: &Self) -> bool {
        let origin = |url: &Self| (url.is_encrypted, url.host.clone(), url.port);
        origin(self) == origin(other)
    }

    fn scheme(&self) -> &'static str {
        if self.is_encrypted { "https" } else { "http" }
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", self.scheme(), self.authority, self.path)
    }
}

/// Whether a redirect names a place on the same host, whatever that is.
pub(super) fn is_relative_reference(location: &str) -> bool {
    !has_scheme(location) && !location.starts_with("//")
}

/// `https:`, `file:`, `data:`.
fn has_scheme(text: &str) -> bool {
    text.split_once(':').is_some_and(|(scheme, _)| {
        scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
    })
}

/// `location` in the place of the last part of `path`, `.` and `..` resolved.
fn below(path: &str, location: &str) -> String {
    let (location, query) = location.split_once('?').map_or((location, None), |(path, query)| (path, Some(query)));
    let folder = &path[..path.rfind('/').unwrap_or(0)];
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in location.split('/') {
        match part {
            "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    let query = query.map_or_else(String::new, |query| format!("?{query}"));
    format!("/{}{query}", parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_lead_where_browsers_go() {
        let at = Url::parse("https://Hub.example/a/b/c?d=1").unwrap();
        for (location, expected) in [
            ("https://cdn.example:8443/x?y#z", "https://cdn.example:8443/x?y"),
            ("//cdn.example/x", "https://cdn.example/x"),
            ("/x?y=1", "https://Hub.example/x?y=1"),
            ("x", "https://Hub.example/a/b/x"),
            ("../x?y=../z", "https://Hub.example/a/x?y=../z"),
            ("../../../../x", "https://Hub.example/x"),
            ("./x:y", "https://Hub.example/a/b/x:y"),
            ("?x", "https://Hub.example/a/b/c?x"),
            ("", "https://Hub.example/a/b/c?d=1"),
            ("#x", "https://Hub.example/a/b/c?d=1"),
        ] {
            assert_eq!(at.join(location).unwrap().to_string(), expected, "{location}");
        }
        for location in
            ["file:///etc/passwd", "data:,x", "ftp://a/b", "http://", "https:///x", "ht!tp://[::1", "//", "x:y", "a b"]
        {
            assert_eq!(at.join(location), None, "{location}");
        }
    }

    #[test]
    fn hosts_are_told_apart() {
        let url = |text| Url::parse(text).unwrap();
        assert!(url("https://hub/a").is_beside(&url("HTTPS://HUB:443/b")));
        for other in
            ["http://hub/a", "https://hub:8443/a", "https://hub.example/a", "https://hub@evil/a", "https://evil#@hub/a"]
        {
            assert!(Url::parse(other).is_none_or(|other| !url("https://hub/a").is_beside(&other)), "{other}");
        }
    }
}
