// Creates certificates and certificate authorities for a test.
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

  /** Creates an authority: `<name>.crt` and `<name>.key`. */
  authority(name: string): void {
    this.#openssl(
      `req -x509 ${newKey} -days 1 -subj /CN=${name} -keyout ${name}.key -out ${name}.crt`,
    );
  }

  /**
   * Creates a certificate that the authority `signer` signs, for `names` like
   * `DNS:localhost,IP:127.0.0.1`.
   */
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
