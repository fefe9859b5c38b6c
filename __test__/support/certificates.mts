// Certificates of a test's own, signed by authorities of its own.
import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const newKey = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";

export class Certificates {
  readonly #directory = mkdtempSync(join(tmpdir(), "fedify-kv-tls-"));

  file(name: string): string {
    return join(this.#directory, name);
  }

  pem(name: string): Buffer {
    return readFileSync(this.file(name));
  }

  /** Makes `<name>.crt` and `<name>.key`, which can sign others. */
  authority(name: string): void {
    this.#openssl(
      `req -x509 ${newKey} -days 1 -subj /CN=${name} -keyout ${name}.key -out ${name}.crt`,
    );
  }

  /** The same for `names`, like `DNS:localhost,IP:127.0.0.1`. */
  certificate(name: string, signer: string, names: string): void {
    const subject = `-subj /CN=${name} -addext subjectAltName=${names}`;
    this.#openssl(
      `req ${newKey} ${subject} -keyout ${name}.key -out ${name}.csr`,
    );
    this.#openssl(
      `x509 -req -in ${name}.csr -days 1 -CA ${signer}.crt -CAkey ${signer}.key -CAcreateserial -copy_extensions copy -out ${name}.crt`,
    );
  }

  remove(): void {
    rmSync(this.#directory, { recursive: true });
  }

  #openssl(command: string): void {
    const options = { cwd: this.#directory, stdio: "ignore" } as const;
    execFileSync("openssl", command.split(" "), options);
  }
}
