import subprocess
import sys
from pathlib import Path

_SERVE = """
import asyncio, sys
from pathlib import Path
import serving.__main__
from serving.access import RequestHead
from serving.app import ModelServer
from serving.settings import Settings
from serving.suspension import drive

async def main():
    root, bundle = Path(sys.argv[1]), sys.argv[2]
    server = ModelServer(Settings(project="flight_delay", state=root / "state", predictions=root / "predictions"))
    await server.start()
    routes = server.predictions
    request = routes.admit(routes.route_of("/v1/predict"), "/v1/predict", RequestHead("POST", "/v1/predict", b"", []))
    request.body = Path(sys.argv[3]).read_bytes()
    answered = asyncio.get_running_loop().create_future()
    drive(routes.answer(request), answered.set_result, answered.set_exception)
    response = await answered
    await server.stop()
    assert response.status == 200, response
    assert server.writer.written_rows == 1
    await server.metrics.exposition()

asyncio.run(main())
import serving.workers.supervisor
heavy = ("airflow", "mlflow", "pandas", "sklearn", "torch", "pipelines")
heavy += ("cryptography", "http_sf", "jwt", "redis")  # only where access needs them
print([name for name in heavy if name in sys.modules])
"""


def test_a_server_that_has_answered_and_logged_has_loaded_nothing_of_the_training_stack(tmp_path: Path) -> None:
    import msgspec

    from serving.champion_file import Remembered, State, write_state
    from tests.fixtures.bundles import tiny_bundle, tiny_record

    bundle = tiny_bundle(tmp_path / "bundles")
    write_state(tmp_path / "state", State(champion=Remembered(version="1", bundle=bundle.id, path=str(bundle.path))))
    request = tmp_path / "request.json"
    request.write_bytes(msgspec.json.encode({"records": [tiny_record()]}))
    finished = subprocess.run(
        [sys.executable, "-c", _SERVE, str(tmp_path), bundle.id, str(request)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=120,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.strip() == "[]"
