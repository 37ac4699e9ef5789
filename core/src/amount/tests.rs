use super::*;

fn toml_value(text: &str) -> toml::Value {
    format!("v = {text}").parse::<toml::Table>().unwrap().remove("v").unwrap()
}

fn amount(text: &str) -> Amount {
    Amount::from_toml(&toml_value(text)).unwrap()
}

#[test]
fn counts_are_exact() {
    for (written, n, expected) in [
        ("\"80%\"", 10, 8),
        ("0.8", 10, 8),
        ("\"12.5%\"", 4, 1),   // 0.5 rounds up
        ("\"50%\"", 1, 1),     // so does this
        ("\"49.999%\"", 1, 0), // and this does not
        ("\"33.333%\"", 3, 1), // 0.99999
        ("\"33.333%\"", 300, 100),
        ("\"16.666%\"", 3, 0), // 0.49998
        ("\"0%\"", 1000, 0),
        ("0.0", 1000, 0),
        ("-0.0", 1000, 0),
        ("\"100%\"", 1000, 1000),
        ("1.0", 1000, 1000),
        ("1", 1000, 1),
        ("0", 1000, 0),
        ("1000", 1000, 1000),
        ("\"80%\"", 0, 0),
        ("\" 80 % \"", 10, 8),
        ("\"080.00%\"", 10, 8),
        // In binary 0.29·50 = 14.499…, 0.145·100 = 14.499…, 1.005·… and so on: all of these go wrong in floats.
        ("\"29%\"", 50, 15),
        ("0.29", 50, 15),
        ("0.145", 100, 15),
        ("\"57.5%\"", 100, 58),
        ("0.575", 1000, 575),
        ("0.30000000000000004", 10, 3),
        ("0.35", 10, 4),
        ("0.15", 10, 2),
        ("0.15", 30, 5),
        ("0.1", 5, 1),
        ("0.7", 15, 11),
        // N where floats have no unit digit left.
        ("\"50%\"", (1 << 62) + 1, (1 << 61) + 1),
        ("\"80%\"", 9_223_372_036_854_775_807, 7_378_697_629_483_820_646), // …645.6
        ("\"99.9999999999999999999999%\"", 9_223_372_036_854_775_807, 9_223_372_036_854_775_807),
        ("\"99.99999999999999999%\"", 9_223_372_036_854_775_807, 9_223_372_036_854_775_806), // minus 0.92
        ("0.1", u64::MAX, 1_844_674_407_370_955_162),                                        // …161.5
        ("5e-324", u64::MAX, 0),
        ("1e-19", 5_000_000_000_000_000_000, 1),
        ("1e-19", 4_999_999_999_999_999_999, 0),
    ] {
        let amount = amount(written);
        assert_eq!(amount.count(n).unwrap(), expected, "{written} of {n}");
    }
}

#[test]
fn rounding_is_that_of_integers_for_all_small_numbers() {
    for percent in 0..=1000u64 {
        let amount = Amount::from_text(&format!("{}.{}%", percent / 10, percent % 10)).unwrap();
        let float = Amount::from_float(percent as f64 / 1000.0).unwrap();
        for n in (0..130).chain([1000, 1001, 99_999]) {
            let expected = (2 * percent * n + 1000) / 2000;
            assert_eq!(amount.count(n).unwrap(), expected, "{amount} of {n}");
            assert_eq!(float.count(n).unwrap(), expected, "{float} of {n}");
        }
    }
}

#[test]
fn amounts_print_as_they_were_written() {
    for (written, shown, json) in [
        ("\"80%\"", "80%", "\"80%\""),
        ("\"12.50%\"", "12.50%", "\"12.50%\""),
        ("0.8", "0.8", "0.8"),
        ("1.0", "1.0", "1.0"),
        ("500", "500", "500"),
        ("\"20MiB\"", "20MiB", "\"20MiB\""),
        ("\"4x\"", "4x", "\"4x\""),
    ] {
        assert_eq!(amount(written).to_string(), shown);
        assert_eq!(amount(written).to_json().to_string(), json);
    }
}

#[test]
fn sizes() {
    for (written, input, expected) in [
        ("\"20MB\"", 1, Some(20_000_000)),
        ("\"20MiB\"", 1, Some(20 << 20)),
        ("\"1.5 kB\"", 1, Some(1500)),
        ("\"1.5KB\"", 1, Some(1500)),
        ("\"500B\"", 1, Some(500)),
        ("\"0.5GiB\"", 1, Some(1 << 29)),
        ("\"2GB\"", 1, Some(2_000_000_000)),
        ("\"1TiB\"", 1, Some(1 << 40)),
        ("\"1KiB\"", 1, Some(1024)),
        ("\"4x\"", 31_400_003, Some(7_850_000)),
        ("\"4X\"", 8, Some(2)),
        ("\"1x\"", u64::MAX, Some(u64::MAX)),
        ("\"2.5x\"", 10, Some(4)),
        ("\"1.000000000000000001x\"", u64::MAX, Some(18_446_744_073_709_551_596)),
        ("\"80%\"", 1, None),
        ("3", 1, None),
    ] {
        let amount = amount(written);
        assert_eq!(amount.target_bytes(input), expected, "{written}");
        assert_eq!(amount.is_size(), expected.is_some());
    }
}

#[test]
fn errors_name_the_range() {
    for (written, expected) in [
        ("\"120%\"", "amount \"120%\" is out of range: a share goes from \"0%\" to \"100%\""),
        ("\"100.0001%\"", "amount \"100.0001%\" is out of range: a share goes from \"0%\" to \"100%\""),
        ("\"-5%\"", "amount \"-5%\" is out of range: a share goes from \"0%\" to \"100%\""),
        (
            "80.0",
            "amount 80.0 is out of range: a float is a share, from 0.0 to 1.0 (\"80%\" is a share in percent, an \
             integer a count of weights)",
        ),
        ("-0.1", "amount -0.1 is out of range: a float is a share, from 0.0 to 1.0"),
        ("nan", "amount NaN is out of range: a float is a share, from 0.0 to 1.0"),
        ("inf", "amount inf is out of range: a float is a share, from 0.0 to 1.0"),
        ("-inf", "amount -inf is out of range: a float is a share, from 0.0 to 1.0"),
        ("-3", "amount -3 is out of range: an integer is a count of weights, 0 or more"),
        ("\"80\"", "amount \"80\" has no unit: write \"80%\" for a share, or 80 without quotes"),
        ("\"20mb\"", "amount \"20mb\" has the unknown unit \"mb\" (did you mean \"MB\"?)"),
        ("\"20MiBs\"", "amount \"20MiBs\" has the unknown unit \"MiBs\" (did you mean \"MiB\"?)"),
        (
            "\"20 percent\"",
            "amount \"20 percent\" has the unknown unit \"percent\": known are %, x, B, kB, MB, GB, TB, KiB, MiB, GiB \
             and TiB",
        ),
        (
            "\"0.5x\"",
            "amount \"0.5x\" is out of range: a ratio is 1 or more, with at most 18 decimals (\"4x\" = a quarter of \
             the input's bytes)",
        ),
        ("\"0MB\"", "amount \"0MB\" is out of range: a size is at least one byte and below 2^64 bytes"),
        ("\"99999999TiB\"", "amount \"99999999TiB\" is out of range: a size is at least one byte and below 2^64 bytes"),
        (
            "true",
            "amount must be a share (\"80%\" or 0.8), a count of weights (500), a size (\"20MB\", \"20MiB\") or a \
             ratio (\"4x\"), not boolean",
        ),
    ] {
        let error = Amount::from_toml(&toml_value(written)).unwrap_err();
        assert_eq!(error.to_string(), expected);
        assert_eq!(error.status(), 2);
    }
    for text in
        ["", "%", "x", "abc", "1e3%", "1.%", ".5%", "1.2.3%", "+5%", "--5%", "nan%", "80％", "99999999999999999999x"]
    {
        let error = Amount::from_text(text).unwrap_err().to_string();
        assert!(error.starts_with(&format!("amount \"{text}\" ")), "{error}");
    }
    assert_eq!(amount("11").count(10).unwrap_err().to_string(), "amount 11 is out of range: there are only 10 weights");
    assert_eq!(
        amount("\"4x\"").count(10).unwrap_err().to_string(),
        "amount \"4x\" is a size of the whole output, not a number of weights"
    );
}
