"""The JSON schema of the settings file, for editors.

To update it: `python -m krebit_proxy.config.schema > krebit_proxy/config/schema.json`
"""

import json
import sys
from typing import Any

from krebit_proxy.config.model import Settings
from krebit_proxy.config.names import SECRET_FILE


def schema() -> dict[str, Any]:
    """The schema as a document. It requires no setting, because the environment may provide it."""
    document = Settings.model_json_schema(mode="validation")
    document.pop("required")
    document["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    document["title"] = "Settings of krebit-proxy"
    document["properties"][SECRET_FILE] = {
        "type": "string",
        "description": "A file with the client secret and nothing else. Use mode 600.",
    }
    return document


def text() -> str:
    """The content of schema.json."""
    return json.dumps(schema(), indent=2) + "\n"


if __name__ == "__main__":
    sys.stdout.write(text())
