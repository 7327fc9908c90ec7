//! The hub, the token and the clock, by two requests.

use std::time::{Duration, SystemTime};

use super::finding::{Finding, Health};
use crate::console::units::duration;
use crate::hub::{HubProbe, TokenAnswer, TokenPlace, probe, token_place};

/// A clock that is wrong by more than this breaks signed addresses and certificates sooner or later.
const WRONG_CLOCK: Duration = Duration::from_secs(300);

/// Before this day no release was built: 1 January 2025.
const BEFORE_RELEASE: Duration = Duration::from_secs(1_735_689_600);

/// Hub, token, clock.
pub(super) fn findings() -> Vec<Finding> {
    let probe = probe();
    vec![hub(&probe), token(&probe), clock(&probe, SystemTime::now())]
}

fn hub(probe: &HubProbe) -> Finding {
    match probe {
        HubProbe::Offline => Finding::of(
            "hub",
            Health::Note,
            "HF_HUB_OFFLINE is set: models and data sets come from the cache alone",
            "unset it to fetch what is not there yet",
        ),
        HubProbe::Wrong(problem) => {
            Finding::of("hub", Health::Broken, problem.as_str(), "set HF_ENDPOINT to an address, or unset it")
        }
        HubProbe::Unreachable { server, problem } => Finding::of(
            "hub",
            Health::Warning,
            format!("{server} cannot be reached: {problem}"),
            "models and data sets by id will not work, folders and files will; HF_ENDPOINT names a mirror, https_proxy a proxy",
        ),
        HubProbe::Reached { server, .. } => Finding::ok("hub", format!("{server} answers")),
    }
}

fn token(probe: &HubProbe) -> Finding {
    let answer = match probe {
        HubProbe::Reached { token, .. } => *token,
        _ => TokenAnswer::NotAsked,
    };
    match (token_place(), answer) {
        (Err(problem), _) => Finding::of(
            "token",
            Health::Broken,
            problem.to_string(),
            "set HF_TOKEN to the token alone, or unset it",
        ),
        (Ok(None), _) => Finding::of(
            "token",
            Health::Note,
            "none: public models and data sets alone, and no push",
            "make one in the hub's settings and set HF_TOKEN, or hf auth login",
        ),
        (Ok(Some(place)), TokenAnswer::Refused) => Finding::of(
            "token",
            Health::Warning,
            format!("present ({}), and the hub refuses it", title(&place)),
            "make a new one in the hub's settings",
        ),
        (Ok(Some(place)), TokenAnswer::Taken) => {
            Finding::ok("token", format!("present ({}), and the hub takes it", title(&place)))
        }
        (Ok(Some(place)), TokenAnswer::NotAsked) => {
            Finding::ok("token", format!("present ({})", title(&place)))
        }
    }
}

fn title(place: &TokenPlace) -> String {
    match place {
        TokenPlace::Variable(name) => (*name).to_owned(),
        TokenPlace::File(path) => path.display().to_string(),
    }
}

fn clock(probe: &HubProbe, now: SystemTime) -> Finding {
    let here = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let advice = "set the clock (timedatectl set-ntp true): certificates and signed addresses go by it";
    if here < BEFORE_RELEASE {
        return Finding::of("clock", Health::Warning, "is years behind", advice);
    }
    let HubProbe::Reached { date: Some(there), .. } = probe else {
        return Finding::ok("clock", "plausible; no server to compare it with");
    };
    let apart = here.abs_diff(*there);
    let found = format!("{} from the hub's", duration(apart.as_secs_f64()));
    match apart > WRONG_CLOCK {
        true => Finding::of("clock", Health::Warning, found, advice),
        false => Finding::ok("clock", found),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_held_against_the_hub_s() {
        let reached = |seconds: u64| HubProbe::Reached {
            server: "http://h".to_owned(),
            date: Some(Duration::from_secs(seconds)),
            token: TokenAnswer::NotAsked,
        };
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        assert_eq!(clock(&reached(1_800_000_100), now).health, Health::Ok);
        assert_eq!(clock(&reached(1_800_001_000), now).health, Health::Warning);
        assert_eq!(clock(&HubProbe::Offline, now).health, Health::Ok);
        assert_eq!(clock(&HubProbe::Offline, SystemTime::UNIX_EPOCH).health, Health::Warning);
    }
}
