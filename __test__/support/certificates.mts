// Creates certificates and certificate authorities for a test.
import { execFileSync } from "node:child_process";
import {
  existsSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const newKey = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";

/** How `openssl ca` signs. */
const signing = `[ca]
default_ca = ca_default
[ca_default]
database = index.txt
new_certs_dir = .
serial = serial
default_md = sha256
policy = any
copy_extensions = copy
unique_subject = no
[any]
commonName = supplied
`;

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

  /**
   * Creates a certificate that is valid in other years than now, each given as
   * `2020`. It is signed by the authority `signer`, or by itself.
   */
  dated(
    name: string,
    signer: string | undefined,
    names: string,
    [from, until]: readonly [number, number],
  ): void {
    const config = this.file("ca.cnf");
    if (!existsSync(config)) {
      writeFileSync(config, signing);
      writeFileSync(this.file("index.txt"), "");
    }
    const subject = `-subj /CN=${name} -addext subjectAltName=${names}`;
    this.#openssl(
      `req ${newKey} ${subject} -keyout ${name}.key -out ${name}.csr`,
    );
    const by =
      signer === undefined
        ? `-selfsign -keyfile ${name}.key`
        : `-cert ${signer}.crt -keyfile ${signer}.key`;
    this.#openssl(
      `ca -batch -notext -rand_serial -config ca.cnf ${by} -in ${name}.csr -startdate ${from}0101000000Z -enddate ${until}0101000000Z -out ${name}.crt`,
    );
  }

  /**
   * Creates a certificate that is its own authority, as the simplest command
   * does it: the host is its common name, and it has no other names.
   */
  selfSigned(name: string, host: string): void {
    this.#openssl(
      `req -x509 ${newKey} -days 1 -subj /CN=${host} -keyout ${name}.key -out ${name}.crt`,
    );
  }

  /** The same without any extension, which older versions of OpenSSL make. */
  selfSignedV1(name: string, host: string): void {
    this.#openssl(
      `req ${newKey} -subj /CN=${host} -keyout ${name}.key -out ${name}.csr`,
    );
    this.#openssl(
      `x509 -req -in ${name}.csr -signkey ${name}.key -days 1 -out ${name}.crt`,
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
