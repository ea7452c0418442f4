"""Run the tests of an exercise in the current folder. Copied there as a program by `glassgpt.code.problems`."""

import unittest

if __name__ == "__main__":
    result = unittest.main(module=None, argv=["tests", "discover", "-p", "*_test.py"], exit=False).result
    assert result.testsRun
    assert result.wasSuccessful()
