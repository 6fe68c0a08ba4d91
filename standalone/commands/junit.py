"""The outcome of `loadsplit check` as JUnit XML, the form that CI systems show: one suite a file, a case for its lint and for each test."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

from standalone.commands.results import Checked, CheckedTest

_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def render_junit(checked: Checked) -> str:
    """An XML document. A test that needs a server is skipped; errors of the file fail its case `lint`, warnings are its output."""
    root = ET.Element("testsuites", name="loadsplit check")
    totals = {"tests": 0, "failures": 0, "skipped": 0}
    files = dict.fromkeys((*checked.files, *(p.file for p in checked.problems)))
    for file in files:
        suite = ET.SubElement(root, "testsuite", name=_clean(file))
        cases = [_lint(suite, checked, file)]
        cases += [_test(suite, test) for test in checked.tests if test.file == file]
        counts = {
            "tests": len(cases),
            "failures": sum(case.find("failure") is not None for case in cases),
            "skipped": sum(case.find("skipped") is not None for case in cases),
        }
        for name, count in counts.items():
            suite.set(name, str(count))
            totals[name] += count
        suite.set("errors", "0")
    for name, count in totals.items():
        root.set(name, str(count))
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _lint(suite: ET.Element, checked: Checked, file: str) -> ET.Element:
    case = ET.SubElement(suite, "testcase", classname=_clean(file), name="lint", file=_clean(file), time="0")
    problems = [p for p in checked.problems if p.file == file]
    errors = [str(p) for p in problems if p.level == "error"]
    warnings = [str(p) for p in problems if p.level == "warning"]
    if errors:
        ET.SubElement(case, "failure", type="lint", message=_clean(f"{len(errors)} error(s)")).text = _clean("\n".join(errors))
    if warnings:
        ET.SubElement(case, "system-out").text = _clean("\n".join(warnings))
    return case


def _test(suite: ET.Element, test: CheckedTest) -> ET.Element:
    where = f"{test.file}:{test.line}:{test.column}"
    case = ET.SubElement(
        suite, "testcase", classname=_clean(test.file), name=_clean(test.name), file=_clean(test.file), line=str(test.line), time="0"
    )
    if test.outcome == "failed":
        failure = ET.SubElement(case, "failure", type="test_failed", message=_clean(test.reasons[0]))
        failure.text = _clean("\n".join(f"{where}: {reason}" for reason in test.reasons))
    elif test.outcome == "not_checked":
        ET.SubElement(case, "skipped", message=_clean("; ".join(test.unchecked)))
    return case


def _clean(text: str) -> str:
    """The text without the characters that XML 1.0 cannot hold."""
    return _NOT_XML.sub("\ufffd", text)
