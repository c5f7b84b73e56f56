/**
 * Names of jinja2's filters and tests. A template that names another is not valid.
 *
 * @module
 */

/** All filters of jinja2; some are not done here. */
export const FILTER_NAMES: ReadonlySet<string> = new Set(
  ("abs attr batch capitalize center count d default dictsort e escape filesizeformat first float forceescape format " +
    "groupby indent int items join last length list lower map max min pprint random reject rejectattr replace " +
    "reverse round safe select selectattr slice sort string striptags sum title tojson trim truncate unique upper " +
    "urlencode urlize wordcount wordwrap xmlattr").split(" "),
);

/** All tests of jinja2; some are not done here. */
export const TEST_NAMES: ReadonlySet<string> = new Set(
  ("boolean callable defined divisibleby eq equalto escaped even false filter float ge greaterthan gt in integer " +
    "iterable le lessthan lower lt mapping ne none number odd sameas sequence string test true undefined upper")
    .split(" "),
);
